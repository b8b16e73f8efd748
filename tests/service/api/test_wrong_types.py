"""Every field of every request body with a value of every JSON type: refused in words or accepted, never a 500."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.api.routers import ROUTERS

WRONG: tuple[Any, ...] = (None, True, 10**400, "x", [[]], {"a": {"b": []}})
VALID: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "inputs": "Hi",
    "prompt": "Hi",
    "response": "Yo",
    "rating": 1,
    "input": "Hi",
    "reference": "no-such",
    "stream": False,
}


def bodies() -> dict[str, type[BaseModel]]:
    """The model of each path's JSON body, once for each model."""
    found = {}
    for route in [route for router in ROUTERS for route in router.routes]:
        if isinstance(route, APIRoute) and route.body_field is not None:
            model = route.body_field.field_info.annotation
            if isinstance(model, type) and issubclass(model, BaseModel):
                found[f"{next(iter(route.methods))} {route.path}"] = model
    return found


def places(model: type[BaseModel], seen: tuple[type, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each field of the model, and of the models in its fields."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        yield (key,)
        for inner in models_in(field.annotation):
            if inner not in seen:
                yield from ((key, *way) for way in places(inner, (*seen, inner)))


def models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return {annotation} if issubclass(annotation, BaseModel) else set()
    return {model for part in typing.get_args(annotation) for model in models_in(part)}


def put(way: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The least body of that value at that place; an object stands for a list of it, too."""
    first, *rest = way
    return {first: put(tuple(rest), value) if rest else value}


@pytest.mark.parametrize("route", bodies())
def test_any_json_type_in_any_field_is_answered_clearly(resident, route):
    method, path = re.sub("{.*?}", "none", route).split()
    model = bodies()[route]
    valid = {name: value for name, value in VALID.items() if name in model.model_fields}
    if "messages" in valid:
        valid.pop("prompt", None)
    for value in WRONG:
        assert resident.request(method, path, json=value).status_code < 500
    for way in places(model):
        for value in WRONG:
            response = resident.request(method, path, json=valid | put(way, value))
            assert response.status_code < 500, (way, value, response.text)
