"""The body of POST /v1/responses, and the conversation that it goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lars_agent.example import Message
from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.names import AdapterName
from service.api.errors import FieldNotFound
from service.api.fields import (
    SPOKEN,
    Body,
    Id,
    Number,
    RecallChoice,
    SamplingFields,
    SpokenText,
    Switch,
    Text,
    Whole,
    is_one_of,
)
from service.api.model_names import ModelName
from service.api.openai.request import MAX_LOGPROBS, TEXT, StreamOptions
from service.api.streams import generation_request
from service.api.turns import EMPTY, MAX_MESSAGES, Turn, as_turns, awaits_reply, join_texts, without_empty
from service.api.unsupported import describe_unsupported, without_unsupported
from service.db import Database
from service.db.errors import InteractionNotFound
from service.db.records import InteractionRecord

MESSAGE_ID, RESPONSE_ID, INTERACTION_ID = "msg_", "resp_", "i-"  # how the ids of one interaction begin
LOGPROBS = "message.output_text.logprobs"  # of `include`
TEXT_PARTS = ("input_text", "output_text", "text")
# Fields that clients send and that have no effect on a reply here.
WITHOUT_EFFECT = frozenset(
    {"user", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"}
    | {"parallel_tool_calls", "max_tool_calls", "reasoning"}
)
# Unsupported fields: accepted with one of these values, which turn them off, refused with any other.
OFF: Mapping[str, tuple[Any, ...]] = {
    "background": (None, False),
    "context_management": (None, []),
    "conversation": (None,),
    "moderation": (None,),
    "prompt": (None,),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "truncation": (None, "disabled"),
}
PLAIN = (*EMPTY, {"type": "text"})  # formats of a reply that is just text
TEXT_PART = {
    "type": "object",
    "properties": {"type": {"enum": [*TEXT_PARTS]}, "text": TEXT},
    "required": ["type", "text"],
}


def _text_of_parts(value: Any) -> Any:
    return join_texts(value, "parts", TEXT_PARTS)


def _to_message(value: Any) -> Any:
    """Return an item as a message; its null and empty fields are ignored. Raises ValueError for one of another kind."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("type")
    if kind == "item_reference" or (kind is None and "id" in value and "content" not in value):
        if not value.get("id"):
            raise ValueError("an item of type 'item_reference' must have the `id` of a stored reply")
        return {"role": "assistant", "content": "", "id": value["id"]}
    if kind not in (None, "message"):
        raise ValueError(f"items of type {kind!a:.40} are not supported, but messages")
    said = without_empty(value, frozenset({"content"}))
    said.pop("id", None)  # of the message itself
    return said


def _plain(value: Any) -> None:
    if not is_one_of(value, PLAIN):
        raise ValueError("only plain text is supported")


class InputMessage(Turn):
    """A message; its content may be a list of parts of text. An item of type `item_reference` is one by its id."""

    role: Annotated[
        Literal["system", "user", "assistant"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
        WithJsonSchema({"type": "string", "enum": ["system", "user", "assistant", "developer"]}),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_text_of_parts),
        WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT_PART}]}),
    ]
    id: Id | None = Field(default=None, description="Of a stored reply, in an item of type `item_reference`.")


Input = Annotated[
    list[Annotated[InputMessage, BeforeValidator(_to_message)]],
    Field(min_length=1, max_length=MAX_MESSAGES, description="A user message, or messages that end with the user's."),
    BeforeValidator(as_turns),
    AfterValidator(awaits_reply),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", **SPOKEN},
                {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/InputMessage"},
                    "minItems": 1,
                    "maxItems": MAX_MESSAGES,
                },
            ]
        }
    ),
]


class TextOptions(Body):
    """Options of the text of a reply."""

    format: Annotated[None, BeforeValidator(_plain), WithJsonSchema({"enum": [*PLAIN]})] = Field(
        default=None, description="Not supported, but for plain text."
    )
    verbosity: Text | None = Field(default=None, description="Accepted without effect.")


def _add_unsupported(schema: dict[str, Any]) -> None:
    describe_unsupported(schema, WITHOUT_EFFECT, OFF)


class ResponsesRequest(SamplingFields, Body):
    """A text or a conversation to reply to, by itself or after an earlier response."""

    model_config = ConfigDict(json_schema_extra=_add_unsupported)

    model: ModelName = None
    input: Input
    instructions: SpokenText | None = Field(default=None, description="The system prompt, of this response alone.")
    previous_response_id: Id | None = Field(
        default=None, description="The stored response, or interaction, whose conversation goes on."
    )
    max_output_tokens: Whole | None = Field(default=None, ge=1, le=1_000_000)
    temperature: Number | None = Field(default=None, ge=0, le=2, description="0 is greedy; 1 by default.")
    top_p: Number | None = Field(default=None, gt=0, le=1)
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    repetition_penalty: Number | None = Field(default=None, ge=0.1, le=10)
    include: list[Text] | None = Field(
        default=None, max_length=100, description=f"`{LOGPROBS}`; the others name what no reply here has."
    )
    metadata: dict[Text, Text] | None = Field(default=None, max_length=16, description="Kept with the response.")
    recall: RecallChoice = None
    store: Switch | None = Field(default=None, description="false: answered, but neither kept nor learned from.")
    stream: Switch | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, values: Any) -> Any:
        return without_unsupported(values, WITHOUT_EFFECT, OFF)

    @field_validator("instructions", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    def messages(self, db: Database, earlier: InteractionRecord | None) -> tuple[Message, ...]:
        """Return the whole conversation: instructions, the turns through those of `earlier`, and the input.

        Raises FieldNotFound for a reference to a reply that is not stored.
        """
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        before = [] if earlier is None else [*_turns(earlier), _reply(earlier)]
        now = []
        for index, turn in enumerate(self.input):
            if turn.id is not None:
                now.append(_reply(stored(db, turn.id, f"input.{index}.id")))
            else:
                now.append(Message(role=turn.role, content=turn.content))
        return (*system, *before, *now)

    def to_request(self, adapter: AdapterName, messages: tuple[Message, ...]) -> GenerationRequest:
        """Return the engine's request for a reply to the conversation."""
        sampling = self.model_dump(include={*SamplingFields.model_fields, "top_p", "repetition_penalty"})
        sampling |= {"stop": tuple(self.stop or ()), "seed": None if self.seed is None else self.seed % 2**63}
        sampling["temperature"] = 1.0 if self.temperature is None else self.temperature
        wants_logprobs = LOGPROBS in (self.include or ()) or self.top_logprobs
        logprobs = (self.top_logprobs or 0) if wants_logprobs else None
        return generation_request(
            adapter, messages, max_new_tokens=self.max_output_tokens, logprobs=logprobs, **sampling
        )

    def parameters(self) -> dict[str, Any]:
        """Return what is recorded; `instructions` tells that they are the first of the recorded messages."""
        own = {"input", "instructions", "include", "stream_options", "text"}
        given = self.model_dump(exclude_none=True, exclude=own)
        return given | ({"instructions": True} if self.instructions else {})


def stored(db: Database, name: str, param: str) -> InteractionRecord:
    """Return the interaction of the response, reply or interaction `name`. Raises FieldNotFound."""
    if name.startswith(MESSAGE_ID):
        rest = name.removeprefix(MESSAGE_ID)
        name = rest if rest.startswith(INTERACTION_ID) else RESPONSE_ID + rest
    try:
        return db.interactions.get(name)
    except InteractionNotFound as error:
        reason = "it was deleted, is older than retention.interaction_days, or was not to be stored"
        raise FieldNotFound(param, f"there is no response {name!a:.60}: {reason}") from error


def instructions_of(record: InteractionRecord) -> str | None:
    """Return the instructions that the response was made with."""
    return record.messages[0]["content"] if record.parameters.get("instructions") else None


def _turns(record: InteractionRecord) -> tuple[Message, ...]:
    return record.messages[1:] if record.parameters.get("instructions") else record.messages


def _reply(record: InteractionRecord) -> Message:
    return Message(role="assistant", content=record.response)
