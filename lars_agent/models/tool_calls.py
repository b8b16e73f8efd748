"""Read the calls of tools in a reply while its text comes in, in the formats that models are trained to write.

    Hermes, Qwen    <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    Mistral         [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]
                    [TOOL_CALLS]f[ARGS]{"a": 1}
    Llama 3         {"name": "f", "parameters": {"a": 1}}   as the whole reply, also behind <|python_tag|>
    Phi, Granite    <|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>

What only looks like a call stays text: arguments that are no JSON object, a tool that was not offered, half a marker.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Set
from typing import Any, NoReturn

from lars_agent.example import FunctionCall, ToolCall
from lars_agent.records import DEEPEST

MISTRAL = "[TOOL_CALLS]"
MARKERS: Mapping[str, str] = {  # each with the text that closes it
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<|python_tag|>": "",
    MISTRAL: "",
}
MARKS = frozenset({*MARKERS, *MARKERS.values(), "[ARGS]", "[CALL_ID]"} - {""})
NAME = r"[A-Za-z0-9_.:/-]{1,128}"
NAMED = re.compile(rf"\s*({NAME})(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*", re.ASCII)
LONGEST_HEAD = 200  # characters of a name with what stands behind it
NEXT = re.compile(r"\s*[;,]?\s*\{")  # of another call behind the same marker
MARKER = re.compile("|".join(map(re.escape, MARKERS)))
STARTS = {marker[:size] for marker in MARKERS for size in range(1, len(marker))}
LONGEST_START = max(map(len, STARTS))
OUTSIDE = frozenset('{}[]:,"-+.0123456789eEtrufalsn \t\r\n')  # of strings, in JSON

Item = str | ToolCall


class CallReader:
    """Parts the text of one reply into texts and calls, as soon as it is certain what they are.

    Only tools of these `names` are called (None: any), at most `most` times; `is_done` then. With `is_bare` a reply
    that is a JSON object with a name and arguments is a call, too. `opening` is the beginning of a call that the reply
    goes on from; if no call comes of it, it is left out of the text.

    White space before a call, and behind the last one, is no text.
    """

    def __init__(
        self, names: Set[str] | None, *, is_bare: bool = False, opening: str = "", most: int | None = None
    ) -> None:
        self._names, self._most = names, most
        self._buffer = ""
        self._is_bare = is_bare  # until something has been said
        self._closing: str | None = None  # of the marker whose call was read last; None without one
        self._is_fresh = False  # nothing has been said since that call
        self._value: _JsonEnd | None = None  # of the call that is being read
        self._head = 0  # characters of the buffer up to it
        self._marker, self._name = "", ""  # it began with these
        self._items = list[Item]()
        self._count = 0
        self._hidden = len(opening)
        self.push(opening)

    @property
    def is_done(self) -> bool:
        """True once the reply has made as many calls as it may."""
        return self._most is not None and self._count >= self._most

    def push(self, text: str) -> list[Item]:
        """Return what is certain after `text`."""
        self._buffer += text
        while self._advance(is_last=False):
            pass
        return self._taken()

    def flush(self) -> list[Item]:
        """Return the rest; call at the end of the reply."""
        while self._advance(is_last=True):
            pass
        return self._taken()

    def _taken(self) -> list[Item]:
        items, self._items = self._items, []
        return items

    def _advance(self, is_last: bool) -> bool:
        """Take something from the buffer; return False if there is nothing left that can be decided."""
        if self.is_done:
            self._buffer = ""
        if not self._buffer:
            return False
        if self._value is not None or self._head:
            return self._read_call(is_last)
        if self._closing is not None or self._is_bare:
            return self._read_start(is_last)
        return self._read_text(is_last)

    def _read_start(self, is_last: bool) -> bool:
        """Look at the beginning of the reply, or behind a call: for what closes it, and for one more."""
        blank = len(self._buffer) - len(self._buffer.lstrip())
        rest = self._buffer[blank:]
        if self._closing and rest.startswith(self._closing):
            self._buffer, self._closing = rest[len(self._closing) :], None
            return True
        if match := NEXT.match(self._buffer if self._is_fresh else ""):
            return self._begin(match.end() - 1)
        if not self._is_fresh and rest.startswith("{"):
            return self._begin(blank)
        may_follow = not rest or (self._is_fresh and re.fullmatch(r"[;,]\s*", rest))
        may_close = bool(self._closing) and (self._closing or "").startswith(rest)
        if may_close and rest and is_last:  # the reply was cut within it
            self._buffer = ""
        if not is_last and (may_follow or may_close):
            return False
        self._closing, self._is_bare = None, False
        return True

    def _begin(self, head: int, marker: str = "") -> bool:
        """Begin to read a call at the character `head` of the buffer."""
        self._head, self._marker = head, marker or self._marker
        self._is_bare = False
        if not marker:
            self._value = _JsonEnd(head)
        return True

    def _read_text(self, is_last: bool) -> bool:
        """Give text up to a marker, or to what may become one."""
        match = MARKER.search(self._buffer)
        end = match.start() if match else len(self._buffer)
        if match is None and not is_last:
            sizes = range(min(LONGEST_START, end), 0, -1)
            end -= next((size for size in sizes if self._buffer[-size:] in STARTS), 0)
        if match or not is_last or self._is_fresh:
            said = len(self._buffer[:end].rstrip())
            end = said if match or not is_last or not said else end
        self._say(end)
        if match is not None:
            return self._begin(match.end() - end, match.group())
        if is_last:
            self._buffer = ""
        return False

    def _say(self, end: int) -> None:
        """Give the buffer up to its character `end` as text."""
        text, self._buffer = self._buffer[self._hidden : end], self._buffer[end:]
        self._hidden = max(0, self._hidden - end)
        if end:
            self._is_fresh = self._is_bare = False
        if text and self._items and isinstance(self._items[-1], str):
            self._items[-1] += text
        elif text:
            self._items.append(text)

    def _read_call(self, is_last: bool) -> bool:
        """Read a call, or take what comes before it as text if it is none."""
        if self._value is None and (start := self._value_start()) is not None:
            if start < 0:
                return self._is_none()
            self._value = _JsonEnd(start)
        if self._value is None or (end := self._value.find(self._buffer)) is None:
            return is_last and self._is_none()
        calls = self._calls(self._buffer[self._value.start : end]) if end else None
        if calls is None:
            return self._is_none()
        self._items += calls if self._most is None else calls[: self._most - self._count]
        self._count += len(calls)
        self._buffer, self._hidden = self._buffer[end:], 0
        self._value, self._head, self._name = None, 0, ""
        self._closing, self._is_fresh = MARKERS.get(self._marker, ""), True
        return True

    def _is_none(self) -> bool:
        """Take the marker as text, and read on behind it."""
        self._say(self._head)
        self._value, self._head, self._closing, self._name = None, 0, None, ""
        self._is_bare = False
        return True

    def _value_start(self) -> int | None:
        """Return where the JSON value behind the marker begins; -1 if there is none, None if that is not known yet."""
        rest = self._buffer[self._head :]
        blank = len(rest) - len(rest.lstrip())
        if blank == len(rest):
            return None
        if rest[blank] in "{[":
            return self._head + blank
        if self._marker != MISTRAL:
            return -1
        brace = rest.find("{", 0, LONGEST_HEAD)
        if brace < 0:
            return -1 if len(rest) >= LONGEST_HEAD else None
        match = NAMED.fullmatch(rest, 0, brace)
        self._name = match[1] if match else ""
        return self._head + brace if match else -1

    def _calls(self, text: str) -> list[ToolCall] | None:
        """Return the calls that a JSON value makes; None if it is none, or makes another."""
        try:
            value = _parse(text)
            if self._name:
                value = {"name": self._name, "arguments": value}
            calls = [self._call(one) for one in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError):
            return None
        return calls or None

    def _call(self, value: Any) -> ToolCall:
        """Return the call. Raises ValueError."""
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if not isinstance(value, dict):
            raise ValueError("not an object")
        name = value.get("name")
        arguments = value.get("arguments", value.get("parameters", {} if self._marker else None))
        if isinstance(arguments, str):
            arguments = _parse(arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise ValueError("no name, or no arguments")
        if not re.fullmatch(NAME, name) or (self._names is not None and name not in self._names):
            raise ValueError("not a tool that was offered")
        return to_call(name, arguments)


class _JsonEnd:
    """Looks for the end of the JSON object or list that begins at `start` of a growing text."""

    def __init__(self, start: int) -> None:
        self.start = self._at = start
        self._depth = 0
        self._in_string = self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Return where it ends; 0 if this is no JSON, None if it has not ended yet."""
        while self._at < len(text):
            char = text[self._at]
            self._at += 1
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped, self._in_string = char == "\\", char != '"'
            elif char not in OUTSIDE:
                return 0
            else:
                self._in_string = char == '"'
                self._depth += (char in "{[") - (char in "}]")
                if self._depth == 0:
                    return self._at
                if self._depth > DEEPEST:
                    return 0
        return None


def to_call(name: str, arguments: Mapping[str, Any], call_id: str | None = None) -> ToolCall:
    """Return a call of the tool `name`, by default with an id of its own."""
    function = FunctionCall(name=name, arguments=dict(arguments))
    return ToolCall(
        id=f"call_{secrets.token_hex(12)}" if call_id is None else call_id, type="function", function=function
    )


def call_text(call: ToolCall) -> str:
    """Return a call as text in Hermes's form, which `read_calls` reads."""
    return f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"


def with_calls(text: str, calls: list[ToolCall] | tuple[ToolCall, ...]) -> str:
    """Return a reply with its calls as one text."""
    return "\n".join([*([text] if text else []), *map(call_text, calls)])


def read_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Return a reply that was written by `with_calls`: its text, and its calls."""
    if "<tool_call>" not in text:
        return text, []
    reader = CallReader(None)
    items = [*reader.push(text), *reader.flush()]
    said = "".join(item for item in items if isinstance(item, str))
    return said, [item for item in items if not isinstance(item, str)]


def _parse(text: str) -> Any:
    """Return a JSON value whose texts can be stored; line breaks in them are allowed, NaN is not. Raises ValueError."""
    value = json.loads(text, strict=False, parse_constant=_refuse)
    written = json.dumps(value, ensure_ascii=False)
    written.encode()  # UnicodeEncodeError is a ValueError
    if "\\u0000" in written and "\0" in "".join(texts_in(value)):
        raise ValueError("contains a NUL character")
    return value


def texts_in(value: Any) -> list[str]:
    """Return all texts in a JSON value."""
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *texts_in(one))]
    if isinstance(value, list):
        return [text for one in value for text in texts_in(one)]
    return [value] if isinstance(value, str) else []


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
