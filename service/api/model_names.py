"""Names that a request may give as `model` or `adapter_id`, in every dialect; docs/api.md has the rules.

A profile or a version of one comes first, then the base model, then an alias, which therefore hides neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated

from pydantic import Field

from lars_agent.errors import AdapterNotFound
from lars_agent.store.names import BASE, DEFAULT_PROFILE, AdapterName, parse_adapter_name
from service.daemon import Daemon
from service.serving.profiles import OwnProfile, Profiles
from service.settings.server import LATEST

MAX_LISTED = 20  # names in an error message

ModelName = Annotated[
    str | None,
    Field(
        max_length=200,
        description='None: "default". "default" or another profile: its active adapter. "alice@v12": that version. '
        '"v3": version 3 of "default". "base", "alice@base", or the base model\'s own name: no adapter. '
        "Or an alias from `server.model_aliases`. GET /v1/models lists the names; others are answered with 404.",
        examples=["default"],
    ),
]


@dataclass(frozen=True)
class ModelNames:
    """The known names: profiles, names of the base model, and aliases for them.

    `own` is the only profile of a caller who is bound to one: no name at all means it, and `base` is asked as it.
    """

    profiles: Profiles | OwnProfile
    base_names: frozenset[str]
    aliases: Mapping[str, str]
    own: str | None = None

    def resolve(self, name: str | None) -> AdapterName:
        """Return the adapter of that name; its version may be missing. Raises AdapterNotFound, listing the names."""
        wanted = (name or self.own or DEFAULT_PROFILE).removesuffix(LATEST)
        found = self._existing(wanted)
        if found is None and wanted in self.base_names:
            found = AdapterName(self.own or DEFAULT_PROFILE, None)
        if found is None and wanted in self.aliases:
            found = self._existing(self.aliases[wanted])
        if found is None:
            raise AdapterNotFound(self._unknown(wanted))
        return found

    def working_aliases(self) -> dict[str, AdapterName]:
        """Return the effective aliases and their adapters: they hide no name, and their profile exists."""
        found = {alias: self._existing(target) for alias, target in self.aliases.items()}
        hidden = {alias for alias in found if alias in self.base_names or self._existing(alias)}
        return {alias: adapter for alias, adapter in found.items() if adapter is not None and alias not in hidden}

    def _existing(self, name: str) -> AdapterName | None:
        """Return the adapter of that name; None if no profile that exists has it."""
        adapter = AdapterName(self.own, None) if self.own and name == BASE else parse_adapter_name(name)
        return adapter if adapter is not None and adapter.profile in self.profiles else None

    def _unknown(self, name: str) -> str:
        names = [BASE, *self.profiles.names(), *self.working_aliases()]
        more = f" and {len(names) - MAX_LISTED} more (GET /v1/models)" if len(names) > MAX_LISTED else ""
        message = f"there is no model {name!a:.100}; there are: {', '.join(names[:MAX_LISTED])}{more}"
        meant = parse_adapter_name(self.aliases.get(name, name))
        if self.own is not None:
            return message
        if meant is None:
            return f"{message}; server.model_aliases can give one of them that name"
        return (
            f'{message}; a profile exists from its first feedback on: POST /feedback with "profile": "{meant.profile}"'
        )


def model_names(daemon: Daemon) -> ModelNames:
    """Return the names that are known now. Raises ModelLoading."""
    installed = daemon.model_host.require_model()
    return ModelNames(
        daemon.profiles,
        base_names(installed.name, installed.reference),
        daemon.settings.server.model_aliases,
        daemon.profile,
    )


def base_names(name: str, reference: str) -> frozenset[str]:
    """Return the base model's names: its installed name, its reference, and its repository, folder or file."""
    repository = reference if PurePath(reference).is_absolute() else reference.partition("@")[0]
    return frozenset({name, reference, repository, PurePath(repository).name})
