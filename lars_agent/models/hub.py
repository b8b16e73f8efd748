"""Models of the hub: find one, tell what it takes, and fetch it, going on where an earlier attempt was cut off.

    <downloads>/<file>.<digest>         a complete file
    <downloads>/<file>.<digest>.part    the beginning of one

Files are fetched over plain HTTP, in ranges: `snapshot_download` begins a cut file anew, as it keeps none that is not
whole. The token, the address and the proxy are those of huggingface_hub, which knows where people keep them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from lars_agent.errors import DiskFull, ModelCorrupt, ModelForbidden, ModelNotFound, ModelUnsupported, Offline
from lars_agent.files import sha256_of
from lars_agent.models.weights import INDEX_FILE, SINGLE_FILE, index_names, refuse_quantized

CONFIG_FILE = "config.json"
FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "LICENSE*"]
PART = ".part"
CHUNK_BYTES = 2**18
WAITS_S = (1, 2, 4, 8, 15)  # before another attempt, after some that brought nothing
SHA256_DIGITS = 64
DIGEST = re.compile(rf"[0-9a-f]{{40}}|[0-9a-f]{{{SHA256_DIGITS}}}")
STEPS = 1000  # most reports of a transfer
FULL = (errno.ENOSPC, errno.EDQUOT)
TRANSFER = re.compile(r": ([\d,]+) of ([\d,]+) bytes$")
TOKEN_ADVICE = "put a token into HF_TOKEN or into the file that HF_TOKEN_PATH names, or run: hf auth login"

Progress = Callable[[str], None]


def transfer_message(what: str, done_bytes: int, total_bytes: int) -> str:
    """Return the message of a transfer, which `transferred` reads."""
    return f"{what}: {done_bytes:,} of {total_bytes:,} bytes"


def transferred(message: str) -> tuple[int, int] | None:
    """Return the bytes that have come, and of how many, that a message tells; None if it tells none."""
    found = TRANSFER.search(message)
    return None if found is None else (int(found[1].replace(",", "")), int(found[2].replace(",", "")))


@dataclass(frozen=True)
class HubFile:
    """A file of a model; `digest` is its sha256, or the sha1 of git's blob, or "" where the hub tells none."""

    name: str
    size: int
    digest: str

    @property
    def key(self) -> str:
        """Name in the folder of downloads, where it is that of no other content."""
        return f"{self.name}.{self.digest or self.size}"


@dataclass(frozen=True)
class HubModel:
    """The files at a commit that make the model that was asked for as `reference`."""

    reference: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def repository(self) -> str:
        """Its name on the hub."""
        return self.reference.partition("@")[0]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


def find(reference: str, folder: Path) -> HubModel:
    """Return the model of `reference`, `org/name` or `org/name@revision`; put its config.json into `folder`.

    Raises ModelNotFound, ModelForbidden, ModelUnsupported, ModelCorrupt, Offline, or OSError for a local file.
    """
    from huggingface_hub import HfApi

    repository, _, revision = reference.partition("@")
    with asking(reference, folder):
        found = HfApi().model_info(repository, revision=revision or None, files_metadata=True)
        siblings, commit = {one.rfilename: one for one in found.siblings or ()}, str(found.sha)
    _require_weights(reference, siblings.keys())
    for name in {CONFIG_FILE, INDEX_FILE} & siblings.keys():
        file = _describe(reference, commit, siblings[name], folder)
        shutil.copyfile(_fetch(reference, commit, file, folder, lambda count: None), folder / name)
    refuse_quantized(folder)
    weights = set(index_names(folder)) if INDEX_FILE in siblings else {SINGLE_FILE}  # many have them twice
    names = [name for name in siblings if "/" not in name and any(fnmatch(name, pattern) for pattern in FILES)]
    wanted = [name for name in names if not name.endswith(".safetensors") or name in weights]
    return HubModel(reference, commit, tuple(_describe(reference, commit, siblings[name], folder) for name in wanted))


def fetch(model: HubModel, downloads: Path, on_progress: Progress) -> list[tuple[HubFile, Path]]:
    """Fetch the files of `model` that are not complete in `downloads`; return all of them and where they are.

    Raises as `find`, and DiskFull before anything is fetched if there is no room for all.
    """
    keys = {file.key for file in model.files}
    for path in downloads.iterdir():
        if path.name.removesuffix(PART) not in keys:  # of another revision
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = sum(_bytes_there(file, downloads) for file in model.files)
    room = shutil.disk_usage(downloads).free
    if model.bytes - done > room:
        raise DiskFull(
            f"{model.reference} takes {model.bytes - done:,} bytes more in {downloads}, where there is room for "
            f"{room:,}; free some space and try again"
        )
    counter = _Counter(f"fetching {model.repository} at {model.commit[:12]}", done, model.bytes, on_progress)
    return [(file, _fetch(model.reference, model.commit, file, downloads, counter.add)) for file in model.files]


class _Counter:
    """Reports how far a transfer is, at its beginning and with each of `STEPS`."""

    def __init__(self, what: str, done: int, total: int, on_progress: Progress) -> None:
        self._what, self._done, self._total, self._on_progress = what, done, total, on_progress
        self._step = -1
        self.add(0)

    def add(self, count: int) -> None:
        """Count bytes that have come; fewer than none where they were damaged."""
        self._done += count
        step = STEPS * self._done // max(self._total, 1)
        if step != self._step:
            self._step = step
            self._on_progress(transfer_message(self._what, self._done, self._total))


def _fetch(reference: str, commit: str, file: HubFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Return the file, complete and checked, from the part that there is. Raises as `find`."""
    whole, part = folder / file.key, folder / f"{file.key}{PART}"
    if whole.is_file():
        return whole
    failed = 0
    url = _url(reference, commit, file.name)
    with asking(reference, folder):
        while not part.is_file() or _size(part) < file.size:
            before = _size(part)
            try:
                _receive(url, part, on_bytes)
                error: Exception = OSError(f"{file.name} was cut off at {_size(part):,} of {file.size:,} bytes")
            except OSError as refused:  # by the hub, or by the disk, which then gets its room back
                if refused.errno in FULL:
                    part.unlink(missing_ok=True)
                raise
            except Exception as cut:  # of the HTTP library, which is another one in each version of the client
                error = cut
            failed = 0 if _size(part) > before else failed + 1
            if failed > len(WAITS_S):
                raise error
            time.sleep(WAITS_S[failed - 1] if failed else 0)
    if _size(part) > file.size or (file.digest and _digest(part, file) != file.digest):
        part.unlink()
        raise ModelCorrupt(f"{file.name} of {reference} came damaged and was removed; try again")
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.rename(whole)
    return whole


def _receive(url: str, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of the file, or write all of it where the hub gives no range."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it names them in its lazy list alone
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    have = _size(part)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with http_stream_backoff("GET", url, headers=headers, timeout=limit, retry_on_exceptions=()) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206
        if have and not goes_on:
            on_bytes(-have)
        with part.open("ab" if goes_on else "wb") as target:
            for piece in response.iter_bytes(CHUNK_BYTES):
                target.write(piece)
                on_bytes(len(piece))


def _require_weights(reference: str, names: Collection[str]) -> None:
    """Raise ModelUnsupported for a repository without what a model is made of, before anything of it is fetched."""
    if CONFIG_FILE in names and (SINGLE_FILE in names or INDEX_FILE in names):
        return
    if any(name.endswith(".gguf") for name in names):
        raise ModelUnsupported(
            f"{reference} holds GGUF files; download the one that you want and give its path: "
            "lars-agent model pull FILE.gguf"
        )
    lacking = CONFIG_FILE if CONFIG_FILE not in names else f"weights in {SINGLE_FILE}"
    raise ModelUnsupported(f"{reference} has no {lacking}, and so no model that can be read; choose another repository")


@contextmanager
def asking(reference: str, folder: Path) -> Iterator[None]:
    """Turn what the hub's client raises into our errors; `folder` is where it writes."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = reference.partition("@")
    try:
        yield
    except GatedRepoError as error:
        raise ModelForbidden(
            f"{repository} is gated: its owners ask for consent first. Give it on the model's page on the hub, then "
            f"{TOKEN_ADVICE}"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{repository} has no revision {revision!r} on the hub; choose one of its branches, tags or commits"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub has no {repository!r}, or it is private; check the name, and for a private one {TOKEN_ADVICE}"
        ) from error
    except HFValidationError as error:
        raise ModelNotFound(f"{repository!r} is no name on the hub: {error}") from error
    except Exception as error:  # the hub's client and its HTTP library have no common base
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            raise ModelForbidden(
                f"the hub does not give {repository} to this token (status {status}); make another one that may read "
                f"it, then {TOKEN_ADVICE}"
            ) from error
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = str(error).strip().partition("\n")[0] or "no reason given"
        raise Offline(
            f"{reference!r} could not be fetched ({type(error).__name__}: {reason}); what has come is kept, and when "
            f"there is a network, run: lars-agent model pull {reference}"
        ) from error


def _describe(reference: str, commit: str, sibling: Any, folder: Path) -> HubFile:
    """Return a file of the hub's list; some mirrors leave out sizes and digests there."""
    from huggingface_hub import get_hf_file_metadata

    name, size = str(sibling.rfilename), sibling.size
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if size is None:
        with asking(reference, folder):
            found = get_hf_file_metadata(_url(reference, commit, name))
        size, digest = found.size, found.etag
    if size is None:
        raise ModelUnsupported(f"the hub does not tell the size of {name} in {reference}; choose another hub")
    return HubFile(name, int(size), digest if digest and DIGEST.fullmatch(digest) else "")


def _url(reference: str, commit: str, name: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(reference.partition("@")[0], name, revision=commit)


def _digest(path: Path, file: HubFile) -> str:
    """Return the file's digest of the kind that the hub tells."""
    if len(file.digest) == SHA256_DIGITS:
        return sha256_of(path)
    blob = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        for piece in iter(partial(content.read, CHUNK_BYTES), b""):
            blob.update(piece)
    return blob.hexdigest()


def _bytes_there(file: HubFile, folder: Path) -> int:
    whole = folder / file.key
    return _size(whole) if whole.is_file() else min(file.size, _size(folder / f"{file.key}{PART}"))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
