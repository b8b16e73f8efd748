"""The daemon's settings: what each is, where its value comes from, and changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field, GetJsonSchemaHandler, RootModel
from pydantic_core import CoreSchema

from lars_agent.errors import ConfigError, ModelNotFound
from lars_agent.models.library import ModelLibrary
from lars_agent.models.sources import resolve
from service.api.dependencies import DaemonDep
from service.api.errors import FieldNotFound, InvalidField, documented
from service.api.fields import Body, JsonObject, Reply, whole
from service.daemon import Daemon
from service.reload import applies_now, change, renewed
from service.settings.load import Layer, Settings, origin_of, settings_of

router = APIRouter(prefix="/settings", tags=["operation"])

# Neither who may come in nor where what was said is carried to is decided by somebody who came in.
FILE_ONLY = (("data_dir",), ("server",), ("training", "runner"), ("training", "runner_takes_model"))
JSON_TYPES: Mapping[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    type(None): ("null",),
}
ABOVE = ("the environment", "the command line")


class SettingBody(Reply):
    """One setting."""

    key: str = Field(description="Section and name, as in `schedule.cron`.")
    value: Any = Field(description="As it is set; of a secret only whether it is set.")
    default: Any
    description: str = Field(description="What it is, with its unit.")
    value_schema: JsonObject = Field(description="JSON schema of its values.")
    applies: Literal["now", "restart"] = Field(description="Whether a change applies at once or at the next start.")
    is_waiting: bool = Field(description="Whether the value is set, but applies at the next start.")
    origin: str | None = Field(description="Where the value is set; null for the default.")
    locked: str | None = Field(description="Why it cannot be changed here; null if it can.")


class SettingList(Reply):
    """All settings, in the order of the configuration file."""

    settings: list[SettingBody]


class SettingChanges(RootModel[dict[str, Any]]):
    """New values by key; null takes a change back, so that the configuration file's value or the default holds."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the settings that can be changed."""
        keys = {".".join(path): schema for path, schema in _schemas() if not _is_file_only(path)}
        properties = {key: {"anyOf": [dict(schema), {"type": "null"}]} for key, schema in keys.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False, "description": cls.__doc__}


@router.get("", responses=documented(409))
def get(daemon: DaemonDep) -> SettingList:
    """List all settings: value, default, meaning, schema, where it is set, and whether a change applies at once."""
    layers = daemon.source.layers()
    wanted = settings_of(layers)
    _, waiting = renewed(daemon.settings, wanted)
    values, defaults = wanted.model_dump(mode="json"), Settings().model_dump(mode="json")
    found = [
        _body(path, schema, _at(values, path), _at(defaults, path), layers, set(waiting)) for path, schema in _schemas()
    ]
    return SettingList(settings=found)


@router.patch("", responses=documented(404, 409, 507))
def edit(body: SettingChanges, daemon: DaemonDep, query: Annotated[Body, Query()]) -> SettingList:
    """Change settings, all or none; what does not apply at once applies at the next start.

    They are kept in the state folder and win over the configuration files, which stay as they are; the environment
    and the command line win over them.
    """
    locked = {setting.key: setting.locked for setting in get(daemon).settings}
    schemas = {".".join(path): schema for path, schema in _schemas()}
    for key, value in body.root.items():
        if key not in locked:
            raise InvalidField(key[:100], "is no setting; GET /settings lists them")
        if reason := locked[key]:
            raise InvalidField(key, f"cannot be changed here: {reason}")
        if value is not None and not _fits(value, schemas[key]):
            raise InvalidField(key, f"input should be a valid {schemas[key].get('type', 'value')}")
    if isinstance(name := body.root.get("model.name"), str):
        _require_model(daemon, name)
    try:
        change(daemon, body.root)
    except ConfigError as error:
        key = next((key for key in body.root if key in str(error)), next(iter(body.root), ""))
        raise InvalidField(key, str(error).removeprefix(f"{key}: ")) from error
    return get(daemon)


def _is_file_only(path: Sequence[str]) -> bool:
    return any(tuple(path[: len(locked)]) == locked for locked in FILE_ONLY)


def _require_model(daemon: Daemon, name: str) -> None:
    """Raise FieldNotFound unless a model of this name is installed, or can be fetched at the next start."""
    library = ModelLibrary(daemon.settings.models_dir)
    with suppress(ModelNotFound):
        library.get(name)
        return
    try:
        resolve(name)
    except ModelNotFound as error:
        raise FieldNotFound("model.name", str(error)) from error


def _body(
    path: Sequence[str], schema: Mapping[str, Any], value: Any, default: Any, layers: Sequence[Layer], waiting: set[str]
) -> SettingBody:
    key, origin = ".".join(path), origin_of(path, layers)
    locked = None
    if _is_file_only(path):
        locked = "it is set in the configuration file, the environment or on the command line only"
    elif origin in ABOVE:
        locked = f"{origin} sets it"
    is_secret = schema.get("writeOnly") or any(one.get("writeOnly") for one in schema.get("anyOf", ()))
    return SettingBody(
        key=key,
        value=value is not None if is_secret else value,
        default=default,
        description=schema.get("description", ""),
        value_schema={name: part for name, part in schema.items() if name not in ("default", "description", "title")},
        applies="now" if applies_now(path) else "restart",
        is_waiting=key in waiting,
        origin=origin,
        locked=locked,
    )


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether a JSON value is of the type that the schema has: true is no number, and "1" is none."""
    if "anyOf" in schema:
        return any(_fits(value, kind) for kind in schema["anyOf"])
    if isinstance(value, list):
        return schema.get("type") == "array" and all(_fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        inner = schema.get("additionalProperties", {})
        return schema.get("type") == "object" and all(_fits(item, inner) for item in value.values())
    return schema.get("type") in (None, *JSON_TYPES[type(whole(value))])


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        values = values[name]
    return values


@cache
def _schemas() -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Return the path and the JSON schema of every setting, in the order of the configuration file."""
    whole = Settings.model_json_schema()

    def under(path: tuple[str, ...], schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if not name:
            yield path, schema
        for key, part in whole["$defs"].get(name, {}).get("properties", {}).items():
            yield from under((*path, key), part)

    return [found for key, part in whole["properties"].items() for found in under((key,), part)]
