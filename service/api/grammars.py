"""Fields that constrain a reply: OpenAI's `response_format` and `logit_bias`, Ollama's `format`, TGI's `grammar`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lars_agent.runtime.json_schema import ANY_OBJECT, schema_text
from lars_agent.runtime.request import Grammar
from service.api.fields import Body, Number, Switch, Text

MAX_BIASED = 1000  # tokens
SCHEMA = {"type": "object", "description": "A JSON schema; docs/api.md tells which keywords are enforced."}


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    schema_text(schema)
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_bounded), WithJsonSchema(SCHEMA)]
TokenId = Annotated[int, Field(ge=0, le=2**31)]
Bias = Annotated[Number, Field(ge=-100, le=100)]
LogitBias = Annotated[
    dict[TokenId, Bias],
    Field(max_length=MAX_BIASED),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_BIASED,
        }
    ),
]


class JsonSchema(Body):
    """A schema as OpenAI has it."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: str = Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$", description="Without effect.")
    description: Text | None = Field(default=None, description="Without effect.")
    schema_: Schema | None = Field(default=None, alias="schema", description="Any object without one.")
    strict: Switch | None = Field(default=None, description="Without effect, as every schema is enforced.")


class ResponseFormat(Body):
    """The form of a reply as OpenAI has it."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Schema | None = Field(default=None, alias="schema", description="Of a json_object, as llama.cpp has it.")

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('the type "json_schema", and only that, has the field json_schema')
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError('only the type "json_object" has the field schema; see json_schema')
        return self

    def grammar(self) -> Grammar | None:
        """Return the grammar of the reply."""
        if self.type == "text":
            return None
        if self.json_schema is not None:
            return _of_schema(self.json_schema.schema_, "response_format.json_schema.schema")
        return _of_schema(self.schema_, "response_format.schema")


def _json_or_schema(given: Any) -> Any:
    if given in ("json", ""):
        return given
    if not isinstance(given, dict):
        raise ValueError('must be "json" or a JSON schema, which is an object')
    return _bounded(given)


OllamaFormat = Annotated[
    Any,
    AfterValidator(_json_or_schema),
    WithJsonSchema({"anyOf": [{"enum": ["json", ""]}, SCHEMA]}),
]


def format_grammar(given: str | Mapping[str, Any] | None) -> Grammar | None:
    """Return the grammar of Ollama's `format`."""
    return _of_schema(None if isinstance(given, str) else given, "format") if given else None


class TgiGrammar(Body):
    """The form of a reply as TGI has it: a schema as `json`, one with its name as `json_schema`, or a `regex`."""

    type: Literal["json", "json_object", "json_schema", "regex"]
    value: Annotated[
        str | dict[str, Any] | None,
        WithJsonSchema({"anyOf": [{"type": "string"}, SCHEMA, {"type": "null"}]}),
    ] = None

    @model_validator(mode="after")
    def _value_of_the_type(self) -> Self:
        self.grammar()
        return self

    def grammar(self) -> Grammar:
        """Return the grammar of the reply. Raises ValueError."""
        field, value = "parameters.grammar.value", self.value
        if self.type == "regex":
            if not isinstance(value, str):
                raise ValueError("the value of a regex must be a text")
            return Grammar(regex=value, field=field)
        if value is None and self.type == "json_object":
            return _of_schema(None, field)
        try:
            schema = json.loads(value) if isinstance(value, str) else value
        except RecursionError:
            raise ValueError("the value is nested too deep") from None
        if self.type == "json_schema" and isinstance(schema, dict):
            schema = schema.get("schema")
        if not isinstance(schema, dict):
            raise ValueError("the value must be a schema: an object, or one as text")
        return _of_schema(schema, field)


def _of_schema(schema: Mapping[str, Any] | None, field: str) -> Grammar:
    return Grammar(schema=schema_text(ANY_OBJECT if schema is None else schema), field=field)
