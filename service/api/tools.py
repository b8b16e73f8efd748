"""Tools in the dialects: their definitions, the turns that call them or give their results, and calls in replies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from lars_agent.example import Message, ToolCall
from lars_agent.models.tool_calls import NAME, texts_in, to_call
from lars_agent.models.tools import ToolUse, definition, linked
from lars_agent.records import parse_json
from service.api.errors import InvalidField
from service.api.fields import Switch, Text, storable
from service.api.turns import MAX_MESSAGES, Turn, as_turns, awaits_reply

MAX_TOOLS = 128
MAX_CHARS = 200_000  # of the JSON of all tools, and of one call's arguments
CHOICES = ("none", "auto", "required")
CHOICE: dict[str, Any] = {
    "anyOf": [
        {"enum": [*CHOICES, None]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
    ]
}


def _plain(value: Any) -> Any:
    """Validate that the value can be written as JSON, stored, and put into a prompt."""
    try:
        text = json.dumps(value, allow_nan=False)
        parse_json(text)  # not nested too deeply
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if len(text) > MAX_CHARS:
        raise ValueError(f"has {len(text):,} characters as JSON; {MAX_CHARS:,} are allowed")
    for one in texts_in(value):
        storable(one)
    return value


def _arguments(value: Any) -> Any:
    """Return arguments that came as the text of a JSON object, as OpenAI's do."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}", strict=False)
    except (ValueError, RecursionError) as error:
        raise ValueError("must be a JSON object, or the text of one") from error


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    """Validate the schema of a function's arguments, without fields that are null."""
    schema = {key: one for key, one in value.items() if one is not None}
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema.get("type", "object") != "object":
        raise ValueError('must be the JSON schema of an object, with the type "object"')
    if not isinstance(properties, dict) or not all(isinstance(one, dict | bool) for one in properties.values()):
        raise ValueError("must have `properties` that are schemas by name")
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        raise ValueError("must have `required` as a list of names")
    return schema


def _choice(value: Any) -> Any:
    """Validate the choice of a tool: a word, or OpenAI's object with the name of a function."""
    if value is None or value in CHOICES:
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return value
    raise ValueError('must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}')


def _within_limit(tools: list[ToolBody]) -> list[ToolBody]:
    _plain([tool.model_dump() for tool in tools])
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"has two tools of the name {twice!r}")
    return tools


class ToolPart(BaseModel):
    """A part of a tool or a call; fields that are not known are ignored."""

    model_config = ConfigDict(frozen=True)


ToolName = Annotated[str, Field(pattern=f"^{NAME}$")]
CallId = Annotated[Text, Field(max_length=200)]


class FunctionBody(ToolPart):
    """A function that may be called."""

    name: ToolName
    description: Text | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_plain), AfterValidator(_schema)] | None = Field(
        default=None, description="JSON schema of the arguments, an object."
    )


class ToolBody(ToolPart):
    """A tool."""

    type: Literal["function"] = "function"
    function: FunctionBody


class CalledBody(ToolPart):
    """The function that was called."""

    name: ToolName
    arguments: Annotated[
        dict[str, Any],
        BeforeValidator(_arguments),
        AfterValidator(_plain),
        WithJsonSchema(
            {"anyOf": [{"type": "object"}, {"type": "string", "description": "The text of a JSON object."}]}
        ),
    ] = {}


class CallBody(ToolPart):
    """A call of a tool, as a reply makes it."""

    id: CallId | None = None
    type: Literal["function"] | None = "function"
    function: CalledBody


Tools = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS), AfterValidator(_within_limit)]
ToolChoice = Annotated[Any, AfterValidator(_choice), WithJsonSchema(CHOICE)]


class ToolTurn(Turn):
    """A message, which may call tools (the assistant's), or be the result of a call (role `tool`)."""

    role: Literal["system", "user", "assistant", "tool"]  # type: ignore[assignment]  # one more than a Turn has
    tool_calls: list[CallBody] | None = Field(default=None, max_length=MAX_TOOLS, description="The assistant's.")
    tool_call_id: CallId | None = Field(default=None, description="Of the call that a tool's result answers.")
    name: Text | None = Field(default=None, max_length=200, description="Of the tool whose result it is.")
    tool_name: Text | None = Field(default=None, max_length=200, description="The same, as Ollama has it.")

    @model_validator(mode="before")
    @classmethod
    def _add_content(cls, values: Any) -> Any:
        """Add the text of a turn that only calls tools."""
        if isinstance(values, Mapping) and values.get("tool_calls") and values.get("content") is None:
            return {**values, "content": ""}
        return values

    @model_validator(mode="after")
    def _fits_role(self) -> ToolTurn:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls: only the assistant calls tools, not the {self.role}")
        return self

    def to_message(self) -> Message:
        """Return the library's message; see `to_messages`."""
        message = Message(role=self.role, content=self.content)
        if self.tool_calls:
            message["tool_calls"] = [
                to_call(call.function.name, call.function.arguments, call.id or "") for call in self.tool_calls
            ]
        if self.role == "tool":
            message["tool_call_id"] = self.tool_call_id or ""
            message["name"] = self.tool_name or self.name or ""
        return message


ToolTurns = Annotated[list[ToolTurn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(awaits_reply)]

TextOrToolTurns = Annotated[ToolTurns, BeforeValidator(as_turns)]


def to_messages(turns: Sequence[ToolTurn]) -> tuple[Message, ...]:
    """Convert request messages to the library's; each result names its call."""
    return tuple(linked([turn.to_message() for turn in turns]))


def tool_use(tools: Sequence[ToolBody] | None, choice: Any = None, is_parallel: Switch | None = None) -> ToolUse | None:
    """Return the tools that a reply may call, None without any. Raises InvalidField for a choice that there is not."""
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidField("tool_choice", "asks for a call, but there are no tools; give tools")
        return None
    offered = [one.function for one in tools]
    if name is not None and name not in {one.name for one in offered}:
        raise InvalidField("tool_choice.function.name", f"is none of the tools, which are not {name!a:.100}")
    if choice == "none":
        return None
    definitions = tuple(definition(one.name, one.description or "", one.parameters) for one in offered)
    return ToolUse(definitions, choice == "required" or name is not None, name, is_parallel is not False)


def openai_calls(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    """Return calls as OpenAI writes them, with the arguments as text."""
    return [{**call, "function": _with_text(call)} for call in calls]


def ollama_calls(calls: Iterable[ToolCall], first: int = 0) -> list[dict[str, Any]]:
    """Return calls as Ollama writes them, with the arguments as an object; `first` is the number of the first."""
    return [
        {"id": call["id"], "function": {"index": index, **call["function"]}} for index, call in enumerate(calls, first)
    ]


def _with_text(call: ToolCall) -> dict[str, str]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {"name": call["function"]["name"], "arguments": arguments}
