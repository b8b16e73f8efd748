"""The token of other devices: `server.token` of the settings, or else one in the state folder."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

import structlog

from lars_agent.errors import ConfigError
from lars_agent.files import make_folder, read_plain, write_atomically
from service.settings.server import Server, check_token

log = structlog.get_logger(__name__)

TOKEN_NAME = "token"
RANDOM_BYTES = 24
OWNER_ONLY = 0o600


class AccessToken:
    """The token that counts now. That of the settings is asked of everybody, the file's of all but this device itself.

    The file is made where there is none; a replaced one counts from the next request on, and with one that cannot be
    read nobody has the token. Raises ConfigError if it cannot be made or read at the start.
    """

    def __init__(self, server: Server, data_dir: Path) -> None:
        self.is_set = server.token is not None
        self._file, self._seen = data_dir / TOKEN_NAME, (0, 0)
        self._value = None if server.token is None else server.token.get_secret_value()
        if not self.is_set:
            read_token(self._file, make=True)

    @property
    def value(self) -> str | None:
        """The token, None if nobody can have it."""
        if self.is_set:
            return self._value
        seen = (0, 0)
        with contextlib.suppress(OSError):
            found = self._file.stat()
            seen = found.st_ino, found.st_ctime_ns
        if seen != self._seen:
            try:
                self._value = read_token(self._file)
            except ConfigError as error:
                self._value = None
                log.error("token_unreadable", error=str(error))
            self._seen = seen
        return self._value

    def is_given(self, given: str) -> bool:
        """Return whether it is the token, in a time that does not tell how near it is."""
        token = self.value
        return token is not None and hmac.compare_digest(given.encode(errors="replace"), token.encode())


def read_token(file: Path, *, make: bool = False) -> str:
    """Return the token in `file`; `make` one if there is none. Raises ConfigError, DiskFull."""
    try:
        return check_token(read_plain(file).decode().strip())
    except PermissionError as error:
        raise ConfigError(
            f"only root and its owner may read the token in {file}; put sudo before the command"
        ) from error
    except FileNotFoundError as error:
        if make:
            return write_token(file)
        raise ConfigError(f"there is no token in {file} yet; lars-agent serve makes it") from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the token in {file} cannot be used: {error}; make another by: lars-agent token --new"
        ) from error


def write_token(file: Path) -> str:
    """Make a new random token, write it to `file`, for the owner of its folder alone, and return it.

    Raises ConfigError if it cannot be written, DiskFull.
    """
    token = secrets.token_urlsafe(RANDOM_BYTES)
    try:
        make_folder(file.parent)
        write_atomically(file, f"{token}\n", mode=OWNER_ONLY)
        owner = file.parent.stat()
        if os.geteuid() == 0:
            os.chown(file, owner.st_uid, owner.st_gid)
    except OSError as error:
        advice = "it is its owner's and root's to change: put sudo before the command"
        raise ConfigError(f"no token can be written to {file} ({error.strerror}); {advice}") from error
    return token
