"""`manifest.json`: where an adapter version comes from, what it was judged by, and what its bytes must be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lars_agent.errors import AdapterCorrupt, AdapterIncompatible

__all__ = ["SCHEMA", "AdapterManifest"]

SCHEMA = 1


@dataclass(frozen=True)
class AdapterManifest:
    """One adapter version, as it was published. `AdapterStore.publish` fills in what only the store can know.

    Attributes:
        profile: whose adapter it is; filled in by the store.
        version: 1, 2, ...; 0 until the store has allotted one.
        parent: the version that was in use when this one was trained; None for the base model.
        created: when it was published, UTC, ISO 8601; filled in by the store where it is empty.
        job_id: the job that trained it.
        base_model, base_model_revision: where its base model came from.
        base_model_sha256: the digest of the base model's weights; on another model the adapter is not used.
        example_ids: the ids of the feedback it learned from.
        config: the LARS settings it was made with.
        plan: how it was trained.
        peak_bytes, budget_bytes: the training's measured peak memory, and what it was allowed; None if not known.
        losses: measured losses, nats per token.
        verdict: the gate's verdict.
        files: the sha256 of each of its files; filled in by the store.
        schema: the version of this format.
    """

    profile: str = ""
    version: int = 0
    parent: int | None = None
    created: str = ""
    job_id: str = ""
    base_model: str = ""
    base_model_revision: str | None = None
    base_model_sha256: str = ""
    example_ids: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    peak_bytes: int | None = None
    budget_bytes: int | None = None
    losses: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The text of `manifest.json`; a number that is not finite becomes null, for JSON has no NaN."""
        return json.dumps(_plain(asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> AdapterManifest:
        """The manifest that `to_json` wrote.

        Raises AdapterIncompatible for one of a newer schema, whatever else it holds, and AdapterCorrupt for anything
        else that is not a manifest.
        """
        record = _parse(text)
        _check(record)
        return cls(**record | {"example_ids": tuple(record["example_ids"])})


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise AdapterCorrupt(f"an adapter's manifest is not JSON ({error}); activate another version") from error
    if not isinstance(record, dict):
        raise AdapterCorrupt(f"an adapter's manifest must be an object, not {type(record).__name__}")
    schema: Any = record.get("schema")
    if not _is_count(schema) or schema == 0:
        raise AdapterCorrupt(f"an adapter's manifest has no usable schema version ({schema!r})")
    if schema > SCHEMA:
        raise AdapterIncompatible(
            f"the adapter was written by a newer lars-agent (manifest schema {schema}, this one reads up to {SCHEMA}); "
            "upgrade lars-agent or activate another version"
        )
    return record


def _check(record: dict[str, Any]) -> None:
    """Raises AdapterCorrupt, naming the field, where `record` has other fields than a manifest or other types."""
    for name in sorted(record.keys() ^ _TESTS.keys()):
        raise AdapterCorrupt(
            f"the adapter's manifest {'has an unknown' if name in record else 'lacks the'} field {name!r}"
        )
    for name, accepts in _TESTS.items():
        if not accepts(record[name]):
            raise AdapterCorrupt(f"the adapter's manifest has an impossible {name}: {record[name]!r:.80}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_digests(value: object) -> bool:
    """Plain file names, each with a sha256."""
    return isinstance(value, dict) and all(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) and _is_text(digest) and re.fullmatch("[0-9a-f]{64}", digest)
        for name, digest in value.items()
    )


def _or_null(test: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or test(value)


_TESTS: dict[str, Callable[[object], bool]] = {item.name: _is_text for item in fields(AdapterManifest)} | {
    "version": _is_count,
    "parent": _or_null(_is_count),
    "base_model_revision": _or_null(_is_text),
    "example_ids": _are_texts,
    "config": _is_object,
    "plan": _is_object,
    "peak_bytes": _or_null(_is_count),
    "budget_bytes": _or_null(_is_count),
    "losses": _is_object,
    "verdict": _is_object,
    "files": _are_digests,
    "schema": _is_count,
}


def _plain(value: Any) -> Any:
    """`value` with what JSON cannot say (NaN, infinities) as None, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
