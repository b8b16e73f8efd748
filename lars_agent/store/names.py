"""Names of profiles, and of adapters as people write them: `alice`, `alice@v12`, `v3`, `base`."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

BASE = "base"
DEFAULT_PROFILE = "default"
PROFILE_PATTERN = "[a-z0-9][a-z0-9_-]{0,63}"
VERSION_PATTERN = re.compile("v([1-9][0-9]{0,8})")


class AdapterName(NamedTuple):
    """A profile and which of its versions: a number, `"active"` for the one in use, None for the base model."""

    profile: str
    version: int | Literal["active"] | None

    @property
    def label(self) -> str:
        """The name as text; `parse_adapter_name` reads it."""
        if self.version is None:
            return BASE
        return self.profile if self.version == "active" else f"{self.profile}@v{self.version}"


def is_profile_name(name: str) -> bool:
    """Return whether a profile may have this name: `base` and versions such as `v2` name something else."""
    return bool(re.fullmatch(PROFILE_PATTERN, name)) and name != BASE and not VERSION_PATTERN.fullmatch(name)


def parse_adapter_name(name: str) -> AdapterName | None:
    """Parse a profile, a version of `default`, `base`, or `profile@version`; None for any other text."""
    if is_profile_name(name):
        return AdapterName(name, "active")
    profile, _, version = (name if "@" in name else f"{DEFAULT_PROFILE}@{name}").partition("@")
    if not is_profile_name(profile):
        return None
    if version == BASE:
        return AdapterName(profile, None)
    match = VERSION_PATTERN.fullmatch(version)
    return AdapterName(profile, int(match[1])) if match else None
