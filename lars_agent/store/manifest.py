"""`manifest.json`: an adapter version's provenance, measurements and file digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field

from lars_agent.errors import AdapterCorrupt, AdapterIncompatible
from lars_agent.records import from_json, parse_json, record

SCHEMA = 1

Count = Annotated[int, Field(strict=True, ge=0)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Object = Mapping[str, Any]


@record("manifest", AdapterCorrupt)
class AdapterManifest:
    """One published adapter version. `AdapterStore.publish` fills in profile, version, created and files.

    Attributes:
        version: 1, 2, ...; 0 in a draft.
        parent: the version that was active when this one was trained; None for the base model.
        created: time of publication, UTC, ISO 8601.
        base_model, base_model_revision: the source of its base model.
        base_model_sha256: digest of the base model's weights; the adapter is refused on any other model.
        example_ids: ids of the feedback that it was trained on.
        config, plan: the fields of its `LarsConfig`, and of the `MemoryPlan` and training settings.
        peak_bytes, budget_bytes: the training's measured peak memory and its limit; None if unknown.
        losses: nats per token. `verdict`: the gate's decision.
        files: the sha256 of each file.
        schema: version of this format.
    """

    profile: str = ""
    version: Count = 0
    parent: Count | None = None
    created: str = ""
    job_id: str = ""
    base_model: str = ""
    base_model_revision: str | None = None
    base_model_sha256: str = ""
    example_ids: tuple[str, ...] = ()
    config: Object = Field(default_factory=dict)
    plan: Object = Field(default_factory=dict)
    peak_bytes: Count | None = None
    budget_bytes: Count | None = None
    losses: Object = Field(default_factory=dict)
    verdict: Object = Field(default_factory=dict)
    files: Mapping[FileName, Sha256] = Field(default_factory=dict)
    schema: Annotated[int, Field(strict=True, ge=1)] = SCHEMA


def read_manifest(text: str | bytes) -> AdapterManifest:
    """Return the manifest in the text of `manifest.json`.

    Raises AdapterIncompatible for a newer schema, whatever else it holds, and AdapterCorrupt for any other text that
    is no complete manifest.
    """
    try:
        values = parse_json(text)
    except ValueError as error:
        raise AdapterCorrupt(f"the manifest is not JSON ({error}); activate another version") from error
    if isinstance(values, dict):
        schema = values.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise AdapterIncompatible(
                f"the adapter was written by a newer lars-agent (manifest schema {schema}, this one reads up to "
                f"{SCHEMA}); upgrade lars-agent or activate another version"
            )
        for name in sorted({field.name for field in fields(AdapterManifest)} - values.keys()):
            raise AdapterCorrupt(f"the manifest lacks the field {name!r}; activate another version")
    return from_json(AdapterManifest, values)
