"""Open WebUI's feedback: a rating, and the tree of messages of the chat that it was given in.

A person who edits a reply there leaves the one before it as `originalContent`: that is a correction.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from lars_agent.example import Message
from service.api.errors import InvalidField, describe
from service.api.fields import Text, storable
from service.api.trl import Row, text_of_parts
from service.api.turns import MAX_MESSAGES
from service.db.records import NewFeedback

TAG_CHARS, MOST_TAGS = 100, 32
HIDDEN = re.compile(r'<details\s+type="(?:reasoning|code_interpreter|tool_calls)"')  # added to a reply, for display
HIDDEN_END = "</details>"
ROLES = ("system", "user", "assistant")
Json = Mapping[str, Any]
AnyObject = Annotated[dict[str, Any], Field(json_schema_extra={"additionalProperties": True})]


def _rating(value: Any) -> Any:
    """Return the number of a rating, which may be written as text."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else value
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(number, float) and not -1 <= number <= 1:
        raise ValueError("must be 1 (good) or -1 (bad)")
    return number


class RatingData(Row):
    """A rating and what was said with it."""

    model_config = ConfigDict(protected_namespaces=())

    rating: (
        Annotated[
            Annotated[float, Field(strict=True)],
            BeforeValidator(_rating),
            WithJsonSchema({"anyOf": [{"enum": ["1", "-1"]}, {"type": "number", "minimum": -1, "maximum": 1}]}),
        ]
        | None
    ) = Field(default=None, description="1 (good) or -1 (bad).")
    model_id: Text | None = Field(default=None, description="Model that replied.")
    reason: Text | None = Field(default=None, description="Kept as a tag.")
    comment: Text | None = None
    tags: list[Text] | None = None

    def on(self, messages: tuple[Message, ...], reply: Json, key: str | None) -> NewFeedback | None:
        """Return the feedback on a reply to the messages; None if it says nothing."""
        shown, original = _text_of(reply), _text_of(reply, "originalContent")
        is_edited = bool(original.strip() and shown.strip()) and shown != original
        rating = None if is_edited and (self.rating or 0) > 0 else self.rating  # what is liked is the edited one
        tags = dict.fromkeys(tag[:TAG_CHARS] for tag in (*(self.tags or ()), self.reason or "") if tag)
        new = NewFeedback(
            messages=messages,
            response=original if is_edited else shown,
            rating=rating,
            correction=shown if is_edited else None,
            comment=self.comment or None,
            tags=tuple(tags)[:MOST_TAGS],
            key=key,
        )
        return new if is_edited or rating or new.comment else None


class FeedbackRow(Row):
    """Feedback as Open WebUI keeps and exports it; fields of its own are ignored."""

    type: Literal["rating"]
    data: RatingData
    meta: AnyObject = Field(description="`message_id`: that of the reply in the snapshot. `chat_id`: that of its chat.")
    snapshot: AnyObject = Field(description="`chat`: the chat with its messages.")

    def to_news(self) -> list[NewFeedback]:
        """Return the feedback; none if it says nothing. Raises InvalidField where the reply is not in the snapshot."""
        chat_id, message_id = str(self.meta.get("chat_id", "")), str(self.meta.get("message_id", ""))
        chat = _chat(self.snapshot)
        messages = _messages(chat)
        if message_id not in messages:
            raise InvalidField(
                "snapshot",
                f"has no message {message_id!a:.60} (meta.message_id); send the chat with its history",
            )
        if (turns := _turns_before(message_id, messages, chat)) is None:
            raise InvalidField("snapshot", f"the message {message_id!a:.60} is no reply to a message of the user")
        new = self.data.on(turns, messages[message_id], _key(chat_id, message_id))
        return [] if new is None else [new]


class ChatRow(Row):
    """A chat as Open WebUI exports it; learned are replies in it that were rated or edited."""

    chat: AnyObject
    id: Any = None

    def to_news(self) -> list[NewFeedback]:
        """Return the feedback on each of these replies."""
        chat = _chat({"chat": self.chat})
        return [new for new in self._each(_messages(chat), chat) if new is not None]

    def _each(self, messages: Mapping[str, Json], chat: Json) -> Iterator[NewFeedback | None]:
        for message_id, message in messages.items():
            said = message.get("annotation")
            if not isinstance(said, Mapping) and not message.get("originalContent"):
                continue
            if (turns := _turns_before(message_id, messages, chat)) is not None:
                try:
                    data = RatingData.model_validate(said if isinstance(said, Mapping) else {})
                except ValidationError as error:
                    column, reason = describe(error.errors(include_url=False))
                    raise InvalidField(f"chat.annotation.{column}", reason) from error
                yield data.on(turns, message, _key(str(self.id or ""), message_id))


def _key(chat_id: str, message_id: str) -> str | None:
    """Return the key of the feedback on that message, whatever their ids look like; None without them."""
    if not chat_id or not message_id:
        return None
    name = f"{chat_id} {message_id}".encode("utf-8", "surrogatepass")
    return f"open-webui:{hashlib.sha256(name).hexdigest()[:32]}"


def _chat(snapshot: Json) -> Json:
    """Return the chat, which Open WebUI wraps in the record of it."""
    chat = snapshot.get("chat")
    inner = chat.get("chat") if isinstance(chat, Mapping) else None
    found = inner if isinstance(inner, Mapping) else chat
    return found if isinstance(found, Mapping) else {}


def _messages(chat: Json) -> dict[str, Json]:
    """Return the chat's messages by id, each with its `parentId`."""
    history = chat.get("history")
    tree = history.get("messages") if isinstance(history, Mapping) else None
    if isinstance(tree, Mapping) and tree:
        return {str(key): message for key, message in tree.items() if isinstance(message, Mapping)}
    found, parent = dict[str, Json](), None
    listed = chat.get("messages")
    for message in listed if isinstance(listed, list) else ():
        if isinstance(message, Mapping) and isinstance(message.get("id"), str):
            found[message["id"]] = {"parentId": parent, **message}
            parent = message["id"]
    return found


def _turns_before(message_id: str, messages: Mapping[str, Json], chat: Json) -> tuple[Message, ...] | None:
    """Return the messages that the reply answers; None if it is no reply to one of the user's."""
    reply = messages[message_id]
    path, seen, above = list[Json](), {message_id}, reply.get("parentId")
    while isinstance(above, str) and above in messages and above not in seen and len(path) < MAX_MESSAGES:
        seen.add(above)
        path.append(messages[above])
        above = messages[above].get("parentId")
    said = [(one.get("role"), _text_of(one)) for one in reversed(path)]
    turns = [Message(role=role, content=text) for role, text in said if role in ROLES and text.strip()]
    system = _system_of(chat)
    if system.strip() and turns and turns[0]["role"] != "system":
        turns.insert(0, Message(role="system", content=system))
    is_reply = reply.get("role") == "assistant" and bool(_text_of(reply).strip())
    return tuple(turns) if is_reply and turns and turns[-1]["role"] == "user" else None


def _system_of(chat: Json) -> str:
    """Return the chat's own system prompt."""
    parameters = chat.get("params")
    return _text_of(parameters if isinstance(parameters, Mapping) else chat, "system")


def _text_of(message: Json, field: str = "content") -> str:
    """Return the text of a message, without what is only displayed with it. Raises InvalidField."""
    text = text_of_parts(message.get(field))
    if not isinstance(text, str):
        return ""
    try:
        return _without_details(storable(text))
    except ValueError as error:
        raise InvalidField("chat", f"the {field} of a message {error}") from error


def _without_details(text: str) -> str:
    kept, position = list[str](), 0
    while found := HIDDEN.search(text, position):
        if (end := text.find(HIDDEN_END, found.end())) < 0:
            break
        kept.append(text[position : found.start()])
        position = end + len(HIDDEN_END)
    return "".join([*kept, text[position:]]).strip() if kept else text
