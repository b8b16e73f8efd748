"""Encryption of backups by age (https://age-encryption.org/v1), which the program `age` reads and writes too."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pyrage

from lars_agent.errors import ConfigError
from lars_agent.files import open_plain, raise_disk_full, read_plain
from service.backup.errors import BackupDamaged, BackupLocked
from service.settings.recipients import parse_recipient

MAGIC, BY_PASSPHRASE = b"age-encryption.org/v1\n", b"-> scrypt "
SSH_KEY = "-----BEGIN"


@dataclass(frozen=True)
class Lock:
    """How a backup is encrypted: to public keys, or with a passphrase; not at all if neither is given.

    Raises ConfigError for what is no public key.
    """

    recipients: tuple[str, ...] = ()
    passphrase: str | None = None

    def __post_init__(self) -> None:
        for one in self.recipients:
            try:
                parse_recipient(one)
            except ValueError as error:
                raise ConfigError(f"a recipient of the backup {error}") from error

    @property
    def is_open(self) -> bool:
        """True if nothing is encrypted."""
        return self.passphrase is None and not self.recipients

    def write(self, chunks: Iterable[bytes], file: BinaryIO) -> None:
        """Write the chunks to the file, encrypted. With a passphrase all of them are in memory at once."""
        if self.passphrase is not None:
            file.write(pyrage.passphrase.encrypt(b"".join(chunks), self.passphrase))
        elif self.recipients:
            keys, target = [parse_recipient(one) for one in self.recipients], _Target(file)
            source = _Chunks(chunks)
            try:
                pyrage.encrypt_io(io.BufferedReader(source, 2**20), target, keys)
            except (pyrage.EncryptError, OSError):
                _raise_own(source.error or target.error)
                raise
        else:
            file.writelines(chunks)


@dataclass(frozen=True)
class Key:
    """What opens an encrypted backup; `ask` returns the passphrase, and is called only for a backup that has one."""

    identities: Sequence[Any] = ()
    ask: Callable[[], str] | None = None


def read_identities(path: Path) -> list[Any]:
    """Return the identities in a file of age-keygen's, or the private key in one of SSH's. Raises ConfigError."""
    text = read_plain(path).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        if text.startswith(SSH_KEY):
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError as error:
        raise ConfigError(f"{path} holds no identity of age that can be read ({error})") from error
    if not found:
        raise ConfigError(f"{path} holds no identity of age; age-keygen makes one")
    return found


@contextmanager
def opened(path: Path, key: Key, scratch: Path | None) -> Iterator[BinaryIO]:
    """Open a backup, decrypted into a file without a name in the folder `scratch` if it is encrypted.

    Raises BackupLocked where it cannot be opened, BackupDamaged, DiskFull, OSError.
    """
    with open_plain(path) as file:
        if (head := file.read(len(MAGIC) + len(BY_PASSPHRASE))).startswith(MAGIC):
            file.seek(0)
            with raise_disk_full(scratch or path), TemporaryFile(dir=scratch) as plain:
                _decrypt(path.name, file, plain, key, has_passphrase=head.endswith(BY_PASSPHRASE))
                plain.seek(0)
                yield plain
        else:
            file.seek(0)
            yield file


def _decrypt(name: str, file: BinaryIO, plain: BinaryIO, key: Key, has_passphrase: bool) -> None:
    target = _Target(plain)
    try:
        if has_passphrase:
            if key.ask is None:
                raise BackupLocked(f"the backup {name} is encrypted with a passphrase; give it")
            plain.write(pyrage.passphrase.decrypt(file.read(), key.ask()))
        elif key.identities:
            pyrage.decrypt_io(file, target, key.identities)
        else:
            raise BackupLocked(f"the backup {name} is encrypted to a key; give the file of its secret key: --identity")
    except OSError as error:
        _raise_own(target.error)
        if error.errno is not None:
            raise
        raise BackupDamaged(f"the backup {name} is damaged ({error}); use another one") from error
    except pyrage.DecryptError as error:
        given = "the passphrase" if has_passphrase else "the secret key"
        raise BackupLocked(f"the backup {name} is not opened by {given} ({error}), or it is damaged") from error


def _raise_own(error: Exception | None) -> None:
    """Raise the error that pyrage, which passes texts alone, has made another one of."""
    if error is not None:
        raise error


class _Target:
    """A file that is written to, and the error of that."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        """Write to the file."""
        try:
            return self._file.write(data)
        except Exception as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


class _Chunks(io.RawIOBase):
    """A file that is read from an iterable of bytes, and the error of that."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")
        self.error: Exception | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the next bytes; return their number, 0 at the end."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
            except Exception as error:
                self.error = error
                raise
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
