"""The directory of one profile: its adapter versions, active pointer, version counter and lock.

<root>/<profile>/v0001/    adapter_config.json, adapter_model.safetensors, manifest.json
<root>/<profile>/active    "1", or "base"; no such file means the base model
<root>/<profile>/last      the highest number ever allotted: a number is never reused
<root>/<profile>/.lock     flock of the process that writes here
<root>/<profile>/.publish-*, .trash-*, .*.tmp    temporary; left by a killed writer, removed by the next
"""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lars_agent.errors import AdapterCorrupt, AdapterNotFound
from lars_agent.files import fsync_folder, make_folder, read_plain, write_atomically
from lars_agent.store.names import BASE, is_profile_name

_NUMBER = re.compile("[1-9][0-9]{0,17}")
_ACTIVE, _LAST, _LOCK, _PUBLISH, _TRASH = "active", "last", ".lock", ".publish-", ".trash-"
_log = logging.getLogger(__name__)


class ProfileDir:
    """One profile's directory, created when it is first written to.

    Raises AdapterNotFound for an invalid profile name.
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
        """Return the profiles under `root` that have or had a version, sorted."""
        if not root.is_dir():
            return []
        homes = (ProfileDir(root, path.name) for path in root.iterdir() if is_profile_name(path.name))
        return sorted(home.path.name for home in homes if home.is_known())

    def is_known(self) -> bool:
        """Return whether the profile has a version, or ever had one."""
        return (self.path / _LAST).exists() or bool(self.versions())

    def folder(self, version: int) -> Path:
        """Return the path of `version`, existing or not."""
        return self.path / f"v{version:04d}"

    def versions(self) -> list[int]:
        """Return the numbers of the existing versions, ascending."""
        if not self.path.is_dir():
            return []
        matches = (re.fullmatch("v([0-9]{4,18})", path.name) for path in self.path.iterdir())
        return sorted(number for number in (int(match[1]) for match in matches if match) if self.has(number))

    def has(self, version: int) -> bool:
        """Return whether `version` exists."""
        return 0 < version < 10**18 and self.folder(version).is_dir()

    def next_version(self) -> int:
        """Return a number that no version has or ever had."""
        return max(self._last(), *self.versions(), 0) + 1

    def allot(self, version: int) -> None:
        """Record the number `version` as used, whether or not that version is published."""
        write_atomically(self.path / _LAST, f"{version}\n")

    def discard(self, version: int) -> None:
        """Delete `version`; a crash leaves it whole, or renamed to trash that the next writer removes."""
        if self._last() < version:  # the counter was lost or damaged, and the folder is about to go
            self.allot(version)
        trash = self.path / f"{_TRASH}{secrets.token_hex(6)}"
        self.folder(version).rename(trash)
        fsync_folder(self.path)
        shutil.rmtree(trash, ignore_errors=True)

    def active(self) -> int | None:
        """Return the active version, None for the base model. Raises AdapterCorrupt for a damaged pointer."""
        pointer = self.path / _ACTIVE
        text = _read_text(pointer)
        if text is None or text == BASE:
            return None
        if not _NUMBER.fullmatch(text):
            raise AdapterCorrupt(
                f"{pointer} holds {text!r:.40}, not a version number; activate a version to replace it"
            )
        return int(text)

    def point_to(self, version: int | None) -> None:
        """Make `version` the active one."""
        write_atomically(self.path / _ACTIVE, f"{BASE if version is None else version}\n")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock; create the directory and remove temporary files of killed writers first."""
        make_folder(self.path)
        with (self.path / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._remove_temporary()
            yield

    def publishing(self) -> TemporaryDirectory[str]:
        """Create a temporary folder for a version; removed afterwards unless it was renamed."""
        return TemporaryDirectory(prefix=_PUBLISH, dir=self.path, ignore_cleanup_errors=True)

    def _last(self) -> int:
        text = _read_text(self.path / _LAST)
        if text is not None and not _NUMBER.fullmatch(text):
            _log.warning("%s holds %r, not a number; counting from the existing versions", self.path / _LAST, text)
            return 0
        return int(text or 0)

    def _remove_temporary(self) -> None:
        for path in self.path.iterdir():
            if path.name.startswith((_PUBLISH, _TRASH)):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith((f".{_ACTIVE}.", f".{_LAST}.")):
                path.unlink(missing_ok=True)


def _read_text(path: Path) -> str | None:
    """Return the stripped text of `path`; None if there is no such file. Raises AdapterCorrupt."""
    try:
        return read_plain(path, follow=False).decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AdapterCorrupt(f"{path} cannot be read ({error}); remove it, and activate a version") from error
