"""The file of a backup: a tar in one form only, so that there is no byte that could be another one unseen.

    manifest.json       see `service.backup.manifest`: name, size and sha256 of each member that follows
    manifest.sha256     of manifest.json, as sha256sum writes it
    ...                 the members, in the manifest's order

`tar -xf` unpacks it by hand. It is read more strictly than tar does: each header must be the one that is written for
its name and size, so that a link, a device, a path of elsewhere or an extension of the format cannot be in it; what
fills the last block is zero, and nothing comes after the end.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from lars_agent.files import open_plain
from service.backup.errors import BackupDamaged, BackupFailed
from service.backup.manifest import MOST_BYTES, BackupManifest, read_backup_manifest

MANIFEST, MANIFEST_SUM = "manifest.json", "manifest.sha256"
BLOCK, CHUNK = tarfile.BLOCKSIZE, 2**20
END = bytes(2 * BLOCK)


class MemberGone(BackupFailed):
    """A file has changed, or is gone, since the manifest was made."""


@dataclass(frozen=True)
class Member:
    """A file of a backup: its name there, and its content or where that lies."""

    name: str
    source: bytes | Path

    def chunks(self) -> Iterator[bytes]:
        """Yield the content. Raises MemberGone if it cannot be read."""
        try:
            with (
                BytesIO(self.source)
                if isinstance(self.source, bytes)
                else open_plain(self.source, follow=False) as file
            ):
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise MemberGone(f"{self.source!s} cannot be read ({error}); try again") from error


def archive(manifest: str, members: Iterable[tuple[Member, int]]) -> Iterator[bytes]:
    """Yield the bytes of a backup of the members, each with its size. Raises MemberGone if one has another."""
    text = manifest.encode()
    for name, content in ((MANIFEST, text), (MANIFEST_SUM, _sum_file(text))):
        yield from (_header(name, len(content)), content, _padding(len(content)))
    for member, size in members:
        yield _header(member.name, size)
        left = size
        for chunk in member.chunks():
            left -= len(chunk)
            yield chunk
        if left:
            raise MemberGone(f"{member.name} has changed while it was copied; try again")
        yield _padding(size)
    yield END


class Archive:
    """A backup in the open file, which is read from its beginning. Raises BackupDamaged, as all methods do, and
    BackupRefused for a newer format.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        text = self._small(MANIFEST, MOST_BYTES)
        if self._small(MANIFEST_SUM, len(_sum_file(b""))) != _sum_file(text):
            raise self._damaged("its manifest is not the one that was written")
        self.manifest: BackupManifest = read_backup_manifest(text, name)

    def members(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield the name and the content of each member; that of one must be read before the next is asked for.

        A content that is not the one in the manifest raises at its end, and so does what follows the last member.
        """
        for name, listed in self.manifest.files.items():
            yield name, self._content(name, listed.bytes, listed.sha256)
        if self._file.read(len(END) + 1) != END:
            raise self._damaged("it does not end where it should")

    def check(self) -> None:
        """Read all of it."""
        for _, content in self.members():
            for _ in content:
                pass

    def _content(self, name: str, size: int, sha256: str) -> Iterator[bytes]:
        if self._take(BLOCK) != _header(name, size):
            raise self._damaged(f"{name} is not where it should be")
        digest, left = hashlib.sha256(), size
        while left:
            chunk = self._take(min(CHUNK, left))
            digest.update(chunk)
            left -= len(chunk)
            yield chunk
        if self._take(len(_padding(size))) != _padding(size):
            raise self._damaged(f"{name} is followed by what is not part of it")
        if digest.hexdigest() != sha256:
            raise self._damaged(f"{name} is not what was written")

    def _small(self, name: str, most: int) -> bytes:
        """Return the content of a member whose size only its header tells."""
        header = self._take(BLOCK)
        try:
            size = tarfile.TarInfo.frombuf(header, "ascii", "strict").size
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise self._damaged("it is no backup of lars-agent") from error
        if not 0 <= size <= most or header != _header(name, size):
            raise self._damaged(f"it does not begin with {MANIFEST}, as backups of lars-agent do")
        content = self._take(size)
        if self._take(len(_padding(size))) != _padding(size):
            raise self._damaged(f"{name} is followed by what is not part of it")
        return content

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged("it ends too early")
        return data

    def _damaged(self, reason: str) -> BackupDamaged:
        return BackupDamaged(f"the backup {self._name} is damaged: {reason}; use another one")


def _header(name: str, size: int) -> bytes:
    """Return the only header that a member of this name and size may have. Raises BackupFailed."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise BackupFailed(f"{name} of {size:,} bytes does not fit into a backup ({error})") from error


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _sum_file(text: bytes) -> bytes:
    return f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()
