"""The machine that trains: this one, or another of the owner's that is reached by ssh."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LOCAL = "local"
SCHEME = "ssh://"
USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
HOST = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
ADDRESS = re.compile(rf"ssh://(?:({USER})@)?({HOST}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])(?::([0-9]{{1,5}}))?(/.*)?")
PATH = re.compile(r"/[A-Za-z0-9_.,+=@~/ -]*")
FORM = f"is neither {LOCAL!r} nor ssh://[user@]host[:port][/path]"


@dataclass(frozen=True)
class SshAddress:
    """An account on another machine, and the folder of its installation (None: where programs are)."""

    host: str
    user: str | None = None
    port: int | None = None
    path: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The arguments of ssh that name the account; no name can be taken for an option."""
        port = [] if self.port is None else ["-p", str(self.port)]
        user = [] if self.user is None else ["-l", self.user]
        return [*port, *user, "--", self.host]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if self.user is None else f"{self.user}@"
        port = "" if self.port is None else f":{self.port}"
        return f"{SCHEME}{user}{host}{port}{self.path or ''}"


def parse_runner(text: str) -> SshAddress | None:
    """Return the account that `text` names, None for this machine. Raises ValueError."""
    if text == LOCAL:
        return None
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(FORM)
    user, host, port, path = match.groups()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{FORM}: {host} is no IPv6 address") from None
    if port is not None and not 0 < int(port) < 2**16:
        raise ValueError(f"{FORM}: there is no port {port}")
    if path is not None and not PATH.fullmatch(path):
        raise ValueError(f"{FORM}: the path may have letters, digits, blanks and _.,+=@~/- in it")
    return SshAddress(host, user, None if port is None else int(port), (path or "").rstrip("/") or None)


def checked_runner(text: str) -> str:
    """Return `text` if it names a machine. Raises ValueError."""
    parse_runner(text)
    return text
