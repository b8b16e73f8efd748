"""The folder of one profile: the files behind versions, pointer and numbers, and who may write them.

<root>/<profile>/v0001/    adapter_config.json, adapter_model.safetensors, manifest.json
<root>/<profile>/active    "1", or "base"; no such file means the base model
<root>/<profile>/last      the highest number ever allotted: a number is never used twice
<root>/<profile>/.lock     held by whoever writes in this folder, from whatever process
<root>/<profile>/.publish-*, .trash-*, .*.tmp    what a writer is at; left by a dead one, removed by the next
"""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lars_agent.errors import AdapterCorrupt, AdapterNotFound
from lars_agent.files import fsync_folder, make_folder, write_atomically
from lars_agent.store.names import BASE, is_profile_name

__all__ = ["ProfileDir"]

_NUMBER = re.compile("[1-9][0-9]{0,17}")
_ACTIVE, _LAST, _LOCK, _PUBLISH, _TRASH = "active", "last", ".lock", ".publish-", ".trash-"
_log = logging.getLogger(__name__)


class ProfileDir:
    """One profile's folder, which need not exist until something is written.

    Raises AdapterNotFound for a name that no profile can have.
    """

    def __init__(self, root: Path, profile: str) -> None:
        if not is_profile_name(profile):
            raise AdapterNotFound(
                f"there is no profile {profile!r:.80}: a profile's name is 1 to 64 of a-z, 0-9, _ and -, begins with a "
                f"letter or digit, and is neither {BASE!r} nor a version such as 'v2'"
            )
        self.path = root / profile

    @staticmethod
    def names(root: Path) -> list[str]:
        """The profiles under `root` that have a version or ever had one, sorted."""
        if not root.is_dir():
            return []
        homes = (ProfileDir(root, path.name) for path in root.iterdir() if is_profile_name(path.name))
        return sorted(home.path.name for home in homes if home.is_known())

    def is_known(self) -> bool:
        """Return whether the profile has a version, or ever had one."""
        return (self.path / _LAST).exists() or bool(self.versions())

    def folder(self, version: int) -> Path:
        """Where `version` lies, or would."""
        return self.path / f"v{version:04d}"

    def versions(self) -> list[int]:
        """The numbers of the versions that are here, ascending."""
        if not self.path.is_dir():
            return []
        matches = (re.fullmatch("v([0-9]{4,18})", path.name) for path in self.path.iterdir())
        numbers = (int(match[1]) for match in matches if match)
        return sorted(number for number in numbers if number > 0 and self.folder(number).is_dir())

    def next_version(self) -> int:
        """A number that no version has, or ever had."""
        return max(self._last(), *self.versions(), 0) + 1

    def allot(self, version: int) -> None:
        """No later version gets the number `version`, even if this one is never published or is removed."""
        write_atomically(self.path / _LAST, f"{version}\n")

    def discard(self, version: int) -> None:
        """`version` is gone, its number for good; a crash leaves it whole, or hidden for the next writer to remove."""
        if self._last() < version:  # lost or damaged: from now on the number is known by nothing else
            self.allot(version)
        trash = self.path / f"{_TRASH}{secrets.token_hex(6)}"
        self.folder(version).rename(trash)
        fsync_folder(self.path)
        shutil.rmtree(trash, ignore_errors=True)

    def active(self) -> int | None:
        """The version in use, None for the base model. Raises AdapterCorrupt where the pointer cannot be understood."""
        pointer = self.path / _ACTIVE
        text = _read_word(pointer)
        if text is None or text == BASE:
            return None
        if not _NUMBER.fullmatch(text):
            raise AdapterCorrupt(
                f"{pointer} holds {text!r:.40}, not a version number; activate a version to replace it"
            )
        return int(text)

    def point_to(self, version: int | None) -> None:
        """`version` is the one in use."""
        write_atomically(self.path / _ACTIVE, f"{BASE if version is None else version}\n")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within the block the folder exists, nobody else writes in it, and what dead writers left is gone."""
        make_folder(self.path)
        with (self.path / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._remove_litter()
            yield

    @contextmanager
    def publishing(self) -> Iterator[Path]:
        """A folder to prepare a version in; gone afterwards, unless it was renamed to its final name."""
        temp = Path(tempfile.mkdtemp(prefix=_PUBLISH, dir=self.path))
        try:
            yield temp
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    def _last(self) -> int:
        text = _read_word(self.path / _LAST)
        if text is not None and not _NUMBER.fullmatch(text):
            _log.warning(
                "%s holds %r, not a number; counting on from the versions that are there", self.path / _LAST, text
            )
            return 0
        return int(text or 0)

    def _remove_litter(self) -> None:
        for path in self.path.iterdir():
            if path.name.startswith((_PUBLISH, _TRASH)):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith((f".{_ACTIVE}.", f".{_LAST}.")):
                path.unlink(missing_ok=True)


def _read_word(path: Path) -> str | None:
    """What the small file `path` holds; None where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
