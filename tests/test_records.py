from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from lars_agent.errors import AdapterCorrupt, ConfigError, JobInvalid, LarsError
from lars_agent.records import from_json, record, to_dict, to_json, validation_message


@record("inner")
class Inner:
    share: float = Field(default=0.5, ge=0, le=1)


@record("outer", JobInvalid)
class Outer:
    name: str
    ids: tuple[str, ...] = ()
    inner: Inner = Inner()
    count: Annotated[int, Field(ge=1)] | None = None
    extra: Mapping[str, Any] = Field(default_factory=dict)


class Settings(BaseModel):
    outer: Outer


def test_record_survives_its_json_as_text_bytes_and_values() -> None:
    value = Outer("a", ("x", "y"), Inner(0.25), 3, {"deep": {"list": [1, None, "ü"]}})
    for data in (to_json(value), to_json(value).encode(), to_dict(value), json.loads(to_json(value)), asdict(value)):
        assert from_json(Outer, data) == value
    assert to_dict(value)["ids"] == ["x", "y"]


def test_json_of_a_record_is_indented_ascii_with_keys_in_order_of_the_fields() -> None:
    assert to_json(Inner()) == '{\n  "share": 0.5\n}\n'
    assert to_json(Outer("ü")).isascii()
    assert list(to_dict(Outer("a"))) == ["name", "ids", "inner", "count", "extra"]


def test_number_that_json_lacks_becomes_null() -> None:
    assert to_dict(Outer("a", extra={"loss": math.nan, "all": [1.0, -math.inf]}))["extra"] == {
        "loss": None,
        "all": [1.0, None],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, r"^outer\.count: .*greater than or equal to 1, not 0$"),
        ({"inner": {"share": 2}}, r"^outer\.inner\.share: .*less than or equal to 1, not 2$"),
        ({"name": 7}, r"^outer\.name: .*string, not 7$"),
        ({"colour": 1}, r"^outer has an unknown field 'colour'$"),
        ({"inner": {"size": 1}}, r"^outer\.inner has an unknown field 'size'$"),
    ],
)
def test_invalid_field_is_named_with_its_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JobInvalid, match=message):
        from_json(Outer, {"name": "a"} | change)
    with pytest.raises(JobInvalid, match=message):
        from_json(Outer, json.dumps({"name": "a"} | change))
    with pytest.raises(JobInvalid, match=message):
        Outer(**({"name": "a"} | change))


def test_missing_field_is_named() -> None:
    with pytest.raises(JobInvalid, match=r"^outer lacks the field 'name'$"):
        from_json(Outer, {})


@pytest.mark.parametrize("data", ["", "{", "[]", "null", b"\xff", '{"name": "a"} x'])
def test_text_that_is_no_record_is_an_error_of_the_callers_choice_and_names_the_file(data: str | bytes) -> None:
    with pytest.raises(AdapterCorrupt, match=r"^folder/job\.json: outer"):
        from_json(Outer, data, AdapterCorrupt, source="folder/job.json")


def test_replace_validates_and_fields_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match=r"inner\.share"):
        replace(Inner(), share=-1.0)
    with pytest.raises(FrozenInstanceError):
        Inner().share = 1.0  # type: ignore[misc]


def test_record_is_a_section_of_pydantic_settings() -> None:
    assert Settings.model_validate({"outer": {"name": "a"}}).outer == Outer("a")
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"outer": {"name": "a", "count": 0}})
    assert not isinstance(caught.value, LarsError)
    assert validation_message(caught.value).startswith("outer.count: ")
