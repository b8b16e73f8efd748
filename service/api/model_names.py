"""One namespace for the `model` of every dialect and for `adapter_id`: profiles and versions, base model, aliases."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from lars_agent.errors import AdapterNotFound
from lars_agent.runtime.request import GenerationRequest
from service.api.fields import PROFILE_PATTERN
from service.daemon import Daemon
from service.db import DEFAULT_PROFILE

__all__ = ["BASE", "LATEST", "UnknownModel", "address", "resolve"]

BASE = "base"
LATEST = ":latest"  # the tag that Ollama's clients append to any name
LISTED = 20  # names in an error message

Version = int | Literal["active"] | None

_VERSION = r"base|v[1-9][0-9]{0,8}"
_PROFILE = PROFILE_PATTERN.strip("^$")
_NAME = re.compile(rf"(?P<own>{_VERSION})|(?P<profile>{_PROFILE})(?:@(?P<version>{_VERSION}))?")


class UnknownModel(AdapterNotFound):
    """No profile, version, base model or alias has the name that the request gives in its field `param`."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def address(daemon: Daemon, request: GenerationRequest, name: str | None, param: str = "model") -> GenerationRequest:
    """`request` for the profile and version that `name` stands for. Raises UnknownModel, ModelLoading."""
    profile, version = resolve(daemon, name, param)
    return replace(request, profile=profile, version=version)


def resolve(daemon: Daemon, name: str | None, param: str = "model") -> tuple[str, Version]:
    """The profile and version that `name` stands for; None or "" is the default profile's active version.

    Profiles and their versions come first ("alice", "alice@v12", "v3" of the default profile), then "base" and the base
    model's own names, then `server.model_aliases`. Raises UnknownModel that lists the names, ModelLoading.
    """
    wanted = (name or DEFAULT_PROFILE).removesuffix(LATEST)
    found = _lookup(daemon, wanted)
    if found is None and (alias := daemon.settings.server.model_aliases.get(wanted)) is not None:
        found = _lookup(daemon, alias)
    if found is None:
        raise UnknownModel(_unknown(daemon, wanted), param)
    return found


def _lookup(daemon: Daemon, name: str) -> tuple[str, Version] | None:
    match = _NAME.fullmatch(name)
    if match and match["own"] and name != BASE:
        return DEFAULT_PROFILE, _number(name)
    if match and match["profile"] and daemon.has_profile(match["profile"]):
        return match["profile"], "active" if match["version"] is None else _number(match["version"])
    installed = daemon.serving.require_model()
    return (DEFAULT_PROFILE, None) if name in (BASE, installed.name, installed.reference) else None


def _number(version: str) -> int | None:
    return None if version == BASE else int(version[1:])


def _unknown(daemon: Daemon, name: str) -> str:
    names = [*daemon.profiles(), BASE, *sorted(daemon.settings.server.model_aliases)]
    listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    return (
        f"there is no model {name!a:.100}; there are {listed}, and versions such as {DEFAULT_PROFILE}@v1 "
        f"(GET /v1/models). A new profile begins with feedback that names it."
    )
