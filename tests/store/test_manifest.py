from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lars_agent.errors import AdapterCorrupt, AdapterIncompatible
from lars_agent.records import to_json
from lars_agent.store import AdapterManifest
from lars_agent.store.manifest import SCHEMA, read_manifest
from tests.store.make import make_draft

MANIFEST = replace(
    make_draft(parent=2), profile="alice", version=3, created="2026-01-01T03:00:00+00:00", files={"a.json": "0" * 64}
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
objects = st.dictionaries(texts, st.integers() | texts | st.none() | st.floats(allow_nan=False, allow_infinity=False))
counts = st.integers(min_value=0)
manifests = st.builds(
    AdapterManifest,
    profile=texts,
    version=counts,
    parent=st.none() | counts,
    created=texts,
    job_id=texts,
    base_model=texts,
    base_model_revision=st.none() | texts,
    base_model_sha256=texts,
    example_ids=st.lists(texts).map(tuple),
    config=objects,
    plan=objects,
    peak_bytes=st.none() | counts,
    budget_bytes=st.none() | counts,
    losses=objects,
    verdict=objects,
    files=st.dictionaries(st.sampled_from(["adapter_config.json", "x.safetensors"]), st.just("a" * 64)),
)


def altered(**changes: Any) -> str:
    return json.dumps(json.loads(to_json(MANIFEST)) | changes)


@given(manifests)
def test_every_manifest_survives_its_json(manifest: AdapterManifest) -> None:
    assert read_manifest(to_json(manifest)) == manifest


def test_a_number_that_json_cannot_hold_becomes_null() -> None:
    text = to_json(replace(MANIFEST, losses={"heldout": math.nan, "steps": [1.0, math.inf]}))
    assert read_manifest(text).losses == {"heldout": None, "steps": [1.0, None]}


@pytest.mark.parametrize("extra", [{}, {"something": "new"}, {"files": 7}])
def test_a_newer_schema_is_incompatible_whatever_else_it_holds(extra: dict[str, Any]) -> None:
    with pytest.raises(AdapterIncompatible, match=r"newer lars-agent .*upgrade"):
        read_manifest(altered(schema=SCHEMA + 1, **extra))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe", "{}", '{"schema": 0}', '{"schema": true}'])
def test_what_is_no_manifest_is_corrupt(text: str | bytes) -> None:
    with pytest.raises(AdapterCorrupt):
        read_manifest(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "3"),
        ("version", True),
        ("version", -1),
        ("parent", 1.5),
        ("example_ids", "f-1"),
        ("example_ids", [1]),
        ("peak_bytes", "much"),
        ("verdict", []),
        ("profile", None),
        ("files", {"../../evil": "0" * 64}),
        ("files", {"": "0" * 64}),
        ("files", {"a.json": "xyz"}),
        ("files", {"a.json": 7}),
    ],
)
def test_an_impossible_value_is_corrupt_and_named(field: str, value: object) -> None:
    with pytest.raises(AdapterCorrupt, match=field):
        read_manifest(altered(**{field: value}))


def test_a_missing_and_an_unknown_field_are_named() -> None:
    record = json.loads(to_json(MANIFEST))
    del record["job_id"]
    with pytest.raises(AdapterCorrupt, match="lacks the field 'job_id'"):
        read_manifest(json.dumps(record))
    with pytest.raises(AdapterCorrupt, match="unknown field 'extra'"):
        read_manifest(altered(extra=1))
