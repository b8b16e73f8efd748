"""`manifest.json` of a backup: what is in it, where it came from, and what can read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from lars_agent.records import from_json, parse_json, record
from lars_agent.store.adapters import ADAPTER_FILES
from lars_agent.store.adapters import MANIFEST as ADAPTER_MANIFEST
from lars_agent.store.manifest import Count, Sha256
from lars_agent.store.names import PROFILE_PATTERN, is_profile_name
from service.backup.errors import BackupDamaged, BackupRefused

FORMAT = 1
MOST_BYTES = 16 * 2**20  # of a manifest, and of settings
DATABASE, SETTINGS, ADAPTERS = "lars-agent.db", "settings.json", "adapters"
_FILES = "|".join(re.escape(name) for name in (*ADAPTER_FILES, ADAPTER_MANIFEST))
NAME = re.compile(
    rf"{re.escape(DATABASE)}|{re.escape(SETTINGS)}|{ADAPTERS}/({PROFILE_PATTERN})/(?:active|last|v[0-9]{{4,18}}/(?:{_FILES}))"
)


@record("a file of the backup", BackupDamaged)
class MemberSum:
    """Size and digest of a member."""

    bytes: Count
    sha256: Sha256


@record("the base model of the backup", BackupDamaged)
class BaseModel:
    """The base model that the adapters were trained for; see `InstalledModel`."""

    name: str
    reference: str
    revision: str | None
    sha256: str


@record("the manifest of the backup", BackupDamaged)
class BackupManifest:
    """The manifest.

    Attributes:
        version: of the lars-agent that made it. `schema`: of the database.
        created: before anything was read, UTC, ISO 8601: what was forgotten later may be in it.
        base_model: None where none was installed.
        files: by name, in their order.
    """

    version: str
    schema: str
    created: str
    base_model: BaseModel | None
    files: Annotated[Mapping[str, MemberSum], Field(min_length=1)]
    format: Annotated[int, Field(strict=True, ge=1)] = FORMAT

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: Mapping[str, MemberSum]) -> Mapping[str, MemberSum]:
        for name in files:
            match = NAME.fullmatch(name)
            if match is None or (match[1] and not is_profile_name(match[1])):
                raise ValueError(f"no backup has a file {name!r:.80}")
        if DATABASE not in files:
            raise ValueError(f"there is no {DATABASE} in it")
        if SETTINGS in files and files[SETTINGS].bytes > MOST_BYTES:
            raise ValueError(f"its {SETTINGS} is larger than any")
        return files


def read_backup_manifest(text: bytes, name: str) -> BackupManifest:
    """Return the manifest in `text`, of the backup `name`. Raises BackupDamaged, BackupRefused for a newer format."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise BackupDamaged(f"the backup {name} is damaged: its manifest is not JSON ({error})") from error
    found = values.get("format") if isinstance(values, dict) else None
    if type(found) is int and found > FORMAT:
        raise BackupRefused(f"the backup {name} has format {found}, this lars-agent reads up to {FORMAT}; upgrade it")
    return from_json(BackupManifest, values, source=name)
