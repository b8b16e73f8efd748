"""Tools in conversations: in the form that the model's chat template has for them, or described in words.

`ToolTraits.of` renders known tools, calls and results, and reads the calls back. A template that loses one of them, or
writes calls that `tool_calls` does not read, gets Hermes's form instead: the tools stand in the system prompt, calls
and results in the texts of the turns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from lars_agent.example import Message, ToolCall
from lars_agent.models.tool_calls import CallReader, to_call, with_calls

Turn = Mapping[str, Any]
Tool = Mapping[str, Any]
Render = Callable[[Sequence[Turn], Sequence[Tool], bool], str]  # turns, tools, whether a reply follows

NAME, OTHER, ABOUT, KEY, VALUE, RESULT = "zxnamezx", "zxothernamezx", "zxaboutzx", "zxkeyzx", "zxvaluezx", "zxresultzx"
BRACKETS = {"{": "}", "[": "]"}
NAMED_FIRST = re.compile(r'(.*)\{\s*"name":\s*"', re.DOTALL)  # a call that is an object, up to the name
KEY_OF_ARGUMENTS = re.compile(r'",\s*"(\w+)":\s*')  # and from the name to the arguments
ID_CHARS = 9  # of a call's id: Mistral's templates take no other length
INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True)
class ToolUse:
    """Tools that a reply may call, as chat templates take them; with `must_call` it calls one, or the one of `name`.

    It ends with its first call unless `is_parallel`, and with that of `name`.
    """

    definitions: tuple[dict[str, Any], ...]
    must_call: bool = False
    name: str | None = None
    is_parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """The names of those that it may call."""
        offered = frozenset(str(tool["function"]["name"]) for tool in self.definitions)
        return offered if self.name is None else offered & {self.name}


@dataclass(frozen=True)
class ForcedCall:
    """The form of a reply that must call a tool: behind the `opening`, `blank`, JSON by `schema`, and `closing`."""

    opening: str
    blank: str
    schema: dict[str, Any]
    closing: str

    @classmethod
    def of(cls, head: str, schema: dict[str, Any]) -> ForcedCall:
        """Return the form of a call whose JSON stands behind `head`, all brackets of which are closed behind it."""
        opening, closing = head.rstrip(), ""
        for char in head:
            if char in BRACKETS:
                closing = BRACKETS[char] + closing
            elif closing.startswith(char):
                closing = closing[1:]
        return cls(opening, head[len(opening) :], schema, closing)


@dataclass(frozen=True)
class ToolTraits:
    """How a conversation shows tools; the defaults are Hermes's form, in words.

    Attributes:
        in_template: True if the chat template shows tools, calls and results.
        is_bare: True if a call is a JSON object without any marker.
        is_single: True if the template takes one call in a turn only.
        needs_tools: True if it shows calls and results only where there are tools.
        before, between: texts before the name in a call, and between the name and the arguments.
    """

    in_template: bool = False
    is_bare: bool = True
    is_single: bool = False
    needs_tools: bool = False
    before: str = '<tool_call>\n{"name": "'
    between: str = '", "arguments": '

    @classmethod
    def of(cls, render: Render, header: str = "") -> ToolTraits:
        """Return the traits of a template; `header` is that of a reply, where it does not write one itself.

        `render` returns the empty text where the template refuses a conversation.
        """
        tools, asked = [_tool(NAME)], {"role": "user", "content": ABOUT}
        call, other = (to_call(name, {KEY: VALUE}, "a" * ID_CHARS) for name in (NAME, OTHER))
        prompt, whole = render([asked], tools, True), render([asked, _calling(call)], tools, False)
        answered = [asked, _calling(call), tool_result(call, RESULT)]
        if not (all(text in prompt for text in (NAME, ABOUT, KEY)) and whole.startswith(prompt)):
            return cls()
        reply = whole[len(prompt) :].removeprefix(header)
        if _call_in(reply) is None or not all(text in render(answered, tools, True) for text in (NAME, VALUE, RESULT)):
            return cls()
        before, _, behind = reply.partition(NAME)
        both = render([asked, _calling(call, other)], tools, False)
        return cls(
            in_template=True,
            is_bare=_call_in(reply, is_bare=False) is None,
            is_single=not (NAME in both and OTHER in both),
            needs_tools=not all(text in render(answered, [], True) for text in (NAME, VALUE, RESULT)),
            before=before,
            between=behind.partition(KEY)[0].rpartition("{")[0],
        )

    def opening(self, tools: ToolUse | None) -> str:
        """Return the text that a reply begins with which must call a tool; nothing if it need not."""
        if tools is None or not tools.must_call:
            return ""
        forced = self.forced(tools)
        return self.before.rstrip('" ') if forced is None else forced.opening

    def forced(self, tools: ToolUse) -> ForcedCall | None:
        """Return the form of a call of one of `tools`; None where it is not JSON and there are several."""
        schemas = {
            tool["function"]["name"]: tool["function"].get("parameters") or {"type": "object"}
            for tool in tools.definitions
            if tool["function"]["name"] in tools.names
        }
        if len(schemas) == 1:
            ((name, schema),) = schemas.items()
            return ForcedCall.of(f"{self.before}{name}{self.between}", schema)
        head, key = NAMED_FIRST.fullmatch(self.before), KEY_OF_ARGUMENTS.fullmatch(self.between)
        if head is None or key is None:
            return None
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, key[1]: schema},
                "required": ["name", key[1]],
                "additionalProperties": False,
            }
            for name, schema in schemas.items()
        ]
        return ForcedCall.of(head[1], {"anyOf": calls})

    def reader(self, tools: ToolUse) -> CallReader:
        """Return the reader of a reply that may call `tools`."""
        most = None if tools.is_parallel and tools.name is None and not self.is_single else 1
        return CallReader(tools.names, is_bare=self.is_bare, opening=self.opening(tools), most=most)


DESCRIBED = ToolTraits()


def shown(messages: Sequence[Message], traits: ToolTraits, tools: ToolUse | None = None) -> list[Message]:
    """Return the turns as a template with these traits takes them; `tools` stand in its system prompt if it has to be.

    Conversations without tools are returned as they are.
    """
    if tools is None and not any(is_about_tools(message) for message in messages):
        return list(messages)
    turns = linked(messages)
    if not traits.in_template:
        return _described(turns, tools)
    return [_with_short_ids(turn) for turn in (_one_by_one(turns) if traits.is_single else turns)]


def is_about_tools(message: Message) -> bool:
    """Return whether the message calls tools, or is the result of a call."""
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def linked(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the ids of calls and the names of tools filled in.

    A result without the id of its call answers the first call of that tool, or of any, that has no result yet.
    """
    turns, waiting = list[Message](), dict[str, str]()  # names of tools by the ids of their calls
    for number, message in enumerate(messages):
        turn = message.copy()
        if calls := message.get("tool_calls"):
            named = [
                to_call(**call["function"], call_id=call.get("id") or f"call_{number}_{index}")
                for index, call in enumerate(calls)
            ]
            turn["tool_calls"] = named
            waiting = {call["id"]: call["function"]["name"] for call in named}
        elif message["role"] == "tool":
            given, name = message.get("tool_call_id"), message.get("name")
            fitting = [call_id for call_id, called in waiting.items() if not name or called == name]
            call_id = given or next(iter([*fitting, *waiting]), f"call_{number}")
            turn["tool_call_id"], turn["name"] = call_id, name or waiting.get(call_id, "")
            waiting.pop(call_id, None)
        turns.append(turn)
    return turns


def tool_result(call: ToolCall, content: str) -> Message:
    """Return the turn that gives the result of a call."""
    return Message(role="tool", content=content, tool_call_id=call["id"], name=call["function"]["name"])


def definition(name: str, description: str = "", parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a tool as chat templates take it; some need each of these fields."""
    schema = {"type": "object", "properties": {}} | dict(parameters or {})
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _tool(name: str) -> Tool:
    value = {"type": "string", "description": ABOUT}
    return definition(name, ABOUT, {"properties": {KEY: value}, "required": [KEY]})


def _calling(*calls: ToolCall) -> Message:
    return Message(role="assistant", content="", tool_calls=list(calls))


def _call_in(reply: str, is_bare: bool = True) -> ToolCall | None:
    """Return the known call if the reply makes it, and it alone."""
    reader = CallReader({NAME}, is_bare=is_bare)
    calls = [item for item in [*reader.push(reply), *reader.flush()] if not isinstance(item, str)]
    return calls[0] if len(calls) == 1 and calls[0]["function"]["arguments"] == {KEY: VALUE} else None


def _described(turns: Sequence[Message], tools: ToolUse | None) -> list[Message]:
    """Return the turns in Hermes's form: calls and results as texts, and the tools in the system prompt."""
    made, is_result = list[Message](), False  # the last of them
    for turn in turns:
        role, content = turn["role"], with_calls(turn["content"], turn.get("tool_calls", []))
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if is_result and role == "user":  # many templates want roles that alternate
            made[-1]["content"] += f"\n{content}"
        else:
            made.append(Message(role=role, content=content))
        is_result = turn["role"] == "tool"
    if tools is None:
        return made
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools.definitions)
    introduction = INTRODUCTION.format(tools=listed)
    if made and made[0]["role"] == "system":
        first, *made = made
        introduction = f"{first['content']}\n\n{introduction}"
    return [Message(role="system", content=introduction), *made]


def _one_by_one(turns: Sequence[Message]) -> list[Message]:
    """Return the turns with one call in each; its result follows it."""
    made, placed = list[Message](), set[str | None]()
    for index, turn in enumerate(turns):
        calls = turn.get("tool_calls", [])
        if turn["role"] != "tool":
            placed = {call["id"] for call in calls} if len(calls) > 1 else set()
        elif turn.get("tool_call_id") in placed:
            continue
        if not placed:
            made.append(turn)
        results = {one.get("tool_call_id"): one for one in takewhile(_is_result, turns[index + 1 :])}
        for number, call in enumerate(calls if placed else ()):
            made.append({**turn, "content": "" if number else turn["content"], "tool_calls": [call]})
            made += [results[call["id"]]] if call["id"] in results else []
    return made


def _is_result(turn: Message) -> bool:
    return turn["role"] == "tool"


def _with_short_ids(turn: Message) -> Message:
    """Return the turn with ids that every template takes."""
    if calls := turn.get("tool_calls"):
        short = [to_call(**call["function"], call_id=_short(call["id"])) for call in calls]
        return {**turn, "tool_calls": short}
    return {**turn, "tool_call_id": _short(turn.get("tool_call_id", ""))} if turn["role"] == "tool" else turn


def _short(call_id: str) -> str:
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:ID_CHARS]
