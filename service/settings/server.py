"""The section [server] of the configuration file: address, limits and access."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator

from lars_agent.store.names import DEFAULT_PROFILE, parse_adapter_name
from service.settings.origins import web_origin
from service.settings.sections import Limit, Section

MIN_TOKEN_CHARS = 16
LATEST = ":latest"  # what Ollama's clients add to a name
OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")  # that a device has for itself; nobody else can be called so
ANY_ADDRESS = ("0.0.0.0", "::")  # to listen on every one
EXTERNAL_URL = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?")


def is_loopback(host: str) -> bool:
    """Return True if `host` is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """Return the address by which a browser on this device reaches a daemon that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def check_token(text: str) -> str:
    """Return the token. Raises ValueError if it can be guessed, or no header can hold it."""
    if len(text.strip()) < MIN_TOKEN_CHARS:
        advice = "make a random one, such as by: openssl rand -hex 32"
        raise ValueError(f"can be guessed: it has fewer than {MIN_TOKEN_CHARS} characters; {advice}")
    if text != text.strip() or not text.isprintable():
        raise ValueError("cannot be sent: it begins or ends with a blank, or has a line break in it")
    return text


def _external_url(text: str) -> str:
    wanted = text.strip().rstrip("/")
    scheme, separator, rest = wanted.partition("://")
    host, *path = rest.split("/", 1)
    wanted = "/".join([f"{scheme.lower()}{separator}{host.lower()}", *path])
    if not EXTERNAL_URL.fullmatch(wanted):
        raise ValueError("is no address of a web page; give one such as https://lars-agent.local")
    return wanted


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ValueError("is neither an address nor a network; give one such as 127.0.0.1 or 172.17.0.0/16") from error
    if not network.prefixlen:
        raise ValueError("would let everybody name the address that counts; give the proxy's own")
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


class Server(Section):
    """Address, limits and access of the server."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on. Anything but this device itself needs a token."
    )
    port: int = Field(default=8321, ge=0, le=65535, description="TCP port; 0 for any free one.")
    max_body_bytes: int = Field(default=1_000_000, ge=1, le=2**30, description="Largest request body, bytes.")
    max_import_bytes: int = Field(
        default=64_000_000,
        ge=1,
        le=2**36,
        description="Largest body of POST /feedback/import and POST /v1/files, bytes.",
    )
    max_connections: int = Field(
        default=3072,
        ge=16,
        le=100_000,
        description="Most connections at a time, `max_connections_per_address` of them for this device alone. Fewer "
        "where the limit of open files is too low for them.",
    )
    max_connections_per_address: int = Field(
        default=1024,
        ge=4,
        le=100_000,
        description="Most connections at a time from one address, or one IPv6 network; at most half of "
        "`max_connections`. A new one takes the place of the one that has been quiet for longest.",
    )
    header_timeout_s: Limit = Field(default=30.0, description="Longest time in which the header of a request arrives.")
    body_timeout_s: Limit = Field(
        default=30.0,
        description="Longest time in which the body of a request arrives, with a second more for each 10,000 bytes.",
    )
    idle_timeout_s: Limit = Field(
        default=30.0, description="Longest time that a connection waits for its next request."
    )
    send_timeout_s: Limit = Field(
        default=60.0, description="Longest time in which a client takes nothing of an answer that it is sent."
    )
    max_streams_per_address: int = Field(
        default=8,
        ge=0,
        le=100_000,
        description="Most replies and streams of events at a time for one address of another device; 0 for no limit.",
    )
    generations_per_minute: int = Field(
        default=60,
        ge=0,
        le=100_000,
        description="Most replies and embeddings that an address of another device may ask for in a minute; 0 for no "
        "limit.",
    )
    writes_per_minute: int = Field(
        default=300,
        ge=0,
        le=100_000,
        description="Most other requests in a minute that an address of another device may change something with; 0 "
        "for no limit.",
    )
    external_url: Annotated[str, AfterValidator(_external_url)] | None = Field(
        default=None,
        description="Address by which other devices reach the daemon, through a reverse proxy; its name "
        "needs no entry in `allowed_hosts`.",
        examples=["https://lars-agent.local"],
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(),
        description="Addresses of reverse proxies whose headers X-Forwarded-For and X-Forwarded-Proto count, "
        'for limits, the log and the cookie: ["127.0.0.1"] for one on this device.',
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="More host names (without port) by which the daemon may be called; this device's own (localhost, "
        "127.0.0.1, [::1]), `host` and the name in `external_url` always are among them.",
    )
    allowed_origins: tuple[Annotated[str, AfterValidator(web_origin)], ...] = Field(
        default=(),
        description="Web pages of elsewhere that may call the API from a browser (CORS), by their origin: "
        '["https://chat.example", "app://obsidian.md"]. They send the token, never this daemon\'s cookie.',
    )
    token: SecretStr | None = Field(
        default=None,
        description="Bearer token every request must carry, at least 16 characters, such as the output of "
        "`openssl rand -hex 32`. If unset, other devices, not this one, need the token in the state folder; "
        "`lars-agent token --show` shows it.",
        examples=["a long random text"],
    )

    client_pulls: bool = Field(
        default=False,
        description="Whether clients may fetch base models from the hub, with Ollama's `/api/pull`. Off, they are told "
        "how you fetch one yourself.",
    )
    model_aliases: dict[Annotated[str, Field(min_length=1, max_length=200)], str] = Field(
        default={},
        description="Other names by which clients may ask for a profile or a version, for those that insist on a name "
        'of their own: {"gpt-4o" = "default", "mine" = "alice@v12"}. Profiles and the base model\'s names come first: '
        "an alias never hides one.",
    )

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            check_token(token.get_secret_value())
        return token

    @field_validator("model_aliases")
    @classmethod
    def _check_aliases(cls, aliases: dict[str, str]) -> dict[str, str]:
        for alias, target in aliases.items():
            if parse_adapter_name(target) is None:
                raise ValueError(f'{alias!r} stands for {target!r}; give a profile, "v3", "alice@v3" or "base"')
            own = parse_adapter_name(alias)
            if own is not None and own.profile == DEFAULT_PROFILE:
                raise ValueError(f"{alias!r} cannot be an alias: it names a version of the default profile")
            if alias.endswith(LATEST):
                raise ValueError(f"{alias!r} ends in {LATEST}; leave that out, it is ignored at the end of every name")
        return aliases

    @property
    def hosts(self) -> frozenset[str]:
        """The host names by which the daemon may be called, in lower case."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        names = (*OWN_NAMES, *self.allowed_hosts, own, *self._external_host())
        return frozenset(name.lower() for name in names)

    @property
    def external_urls(self) -> tuple[str, ...]:
        """The addresses by which other devices reach the daemon, the best one first; none if they cannot."""
        if self.external_url is not None:
            return (self.external_url,)
        if is_loopback(self.host):
            return ()
        names = sorted(name for name in self.hosts if not is_loopback(name) and name.strip("[]") not in ANY_ADDRESS)
        return tuple(f"http://{name}:{self.port}" for name in names)

    def _external_host(self) -> tuple[str, ...]:
        name = urlsplit(self.external_url or "").hostname
        return () if name is None else (f"[{name}]" if ":" in name else name,)
