"""Calls of tools read from replies: whole, and in pieces of any size."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from lars_agent.models.tool_calls import CallReader, read_calls, to_call, with_calls

NAMES = frozenset({"weather", "now", "ns.find-it"})
ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'
CALL, NOW = ("weather", {"city": "Rome"}), ("now", {})
Item = str | tuple[str, dict]


def read(text: str, *cuts: int, **options) -> list[Item]:
    """The texts (joined where they meet) and calls in a reply that comes in pieces."""
    reader = CallReader(options.pop("names", NAMES), **options)
    ends = [0, *sorted(cuts), len(text)]
    items = [item for start, end in pairwise(ends) for item in reader.push(text[start:end])]
    found = list[Item]()
    for item in [*items, *reader.flush()]:
        if not isinstance(item, str):
            assert item["id"].startswith("call_")
            found.append((item["function"]["name"], item["function"]["arguments"]))
        elif found and isinstance(found[-1], str):
            found[-1] += item
        else:
            found.append(item)
    return found


MARKED = {
    "hermes": (f"<tool_call>\n{ROME}\n</tool_call>", [CALL]),
    "hermes, on one line": (f"<tool_call>{ROME}</tool_call>", [CALL]),
    "text before": (f"Let me see.\n<tool_call>\n{ROME}\n</tool_call>", ["Let me see.", CALL]),
    "text around": (f"Hm. <tool_call>{ROME}</tool_call>\n\nSo.", ["Hm.", CALL, "\n\nSo."]),
    "several": (f'<tool_call>{ROME}</tool_call>\n<tool_call>\n{{"name": "now"}}\n</tool_call>\n', [CALL, NOW]),
    "two behind one marker": (f'<tool_call>\n{ROME}\n{{"name": "now", "arguments": {{}}}}\n</tool_call>', [CALL, NOW]),
    "no closing tag": (f"<tool_call>\n{ROME}", [CALL]),
    "half a closing tag": (f"<tool_call>\n{ROME}\n</tool_c", [CALL]),
    "closing tag in an argument": (
        '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call> \\" }"}}</tool_call>',
        [("weather", {"city": '</tool_call> " }'})],
    ),
    "mistral": (f"[TOOL_CALLS] [{ROME}]", [CALL]),
    "mistral, several": (f'[TOOL_CALLS][{ROME}, {{"name": "now", "arguments": {{}}, "id": "abcdefghi"}}]', [CALL, NOW]),
    "mistral, new": ('[TOOL_CALLS]weather[ARGS]{"city": "Rome"}', [CALL]),
    "mistral, new, several": ('[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{}', [CALL, NOW]),
    "mistral with an id": ('[TOOL_CALLS]ns.find-it[CALL_ID]a1b2c3d4e[ARGS]{"x": [1]}', [("ns.find-it", {"x": [1]})]),
    "mistral, without marks": ('[TOOL_CALLS]weather{"city": "Rome"}', [CALL]),
    "llama behind its tag": ('<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}', [CALL]),
    "llama, several": (f'<|python_tag|>{ROME}; {{"name": "now", "parameters": {{}}}}', [CALL, NOW]),
    "phi": (f"<|tool_call|>[{ROME}]<|/tool_call|>", [CALL]),
    "arguments as text": (
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        [CALL],
    ),
    "openai's form": (f'<tool_call>{{"type": "function", "function": {ROME}}}</tool_call>', [CALL]),
    "line break in a string": (
        '<tool_call>{"name": "weather", "arguments": {"city": "Ro\nme"}}</tool_call>',
        [("weather", {"city": "Ro\nme"})],
    ),
}
TEXTS = {
    "nothing": "",
    "no call": "It is sunny; 1 < 2 and [x] {y}.\n",
    "white space": " \n ",
    "half a marker": "Use <tool_ca",
    "a marker alone": "The marker is <tool_call>",
    "a marker in words": "Write <tool_call> and then </tool_call>, or [TOOL_CALLS] or <|python_tag|>.",
    "not closed": '<tool_call>{"name": "weather", "arguments": {"city": "Rome"',
    "no JSON": "<tool_call>{name: weather}</tool_call>",
    "no arguments": '<tool_call>{"name": "weather", "arguments": "Rome"}</tool_call>',
    "arguments in a list": '<tool_call>{"name": "weather", "arguments": ["Rome"]}</tool_call>',
    "not a number": '<tool_call>{"name": "weather", "arguments": {"x": NaN}}</tool_call>',
    "half a character": '<tool_call>{"name": "weather", "arguments": {"x": "\\ud800"}}</tool_call>',
    "a NUL": '<tool_call>{"name": "weather", "arguments": {"x": "\\u0000"}}</tool_call>',
    "a number of many digits": f'<tool_call>{{"name": "weather", "arguments": {{"x": {"1" * 5000}}}}}</tool_call>',
    "nested too deeply": '<tool_call>{"name": "weather", "arguments": {"x": '
    + "[" * 300
    + "]" * 300
    + "}}</tool_call>",
    "another tool": '<tool_call>{"name": "shell", "arguments": {}}</tool_call>',
    "no name": '<tool_call>{"arguments": {}}</tool_call>',
    "one of a list is none": f'[TOOL_CALLS][{ROME}, {{"name": "shell"}}]',
    "an empty list": "[TOOL_CALLS][]",
    "python": '<|python_tag|>weather.call(city="Rome")',
    "mistral in words": "[TOOL_CALLS] of the weather {sunny}",
    "a name too long": "[TOOL_CALLS]" + "x" * 300 + "{}",
    "bare JSON that is no call": '{"city": "Rome"}',
    "bare JSON in a sentence": f"It is {ROME}.",
    "a bare name": '{"name": "weather"}',
}
BARE = {
    "llama": ('{"name": "weather", "parameters": {"city": "Rome"}}', [CALL]),
    "hermes's keys": (f"\n {ROME} ", [CALL]),
    "several": (f'{ROME}; {{"name": "now", "parameters": {{}}}}', [CALL, NOW]),
    "text behind": (f"{ROME} So.", [CALL, " So."]),
    "marked": (f"<tool_call>{ROME}</tool_call>", [CALL]),
    "then no call": (f"{ROME}, {{1}}", [CALL, ", {1}"]),
}


@pytest.mark.parametrize("name", MARKED)
def test_calls_are_read_in_the_formats_of_the_families(name):
    text, expected = MARKED[name]
    assert read(text) == expected
    assert read(text, *range(len(text))) == expected


@pytest.mark.parametrize("name", BARE)
def test_a_reply_that_is_a_call_needs_no_marker_where_the_model_writes_none(name):
    text, expected = BARE[name]
    assert read(text, is_bare=True) == read(text, *range(len(text)), is_bare=True) == expected


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("is_bare", [False, True])
def test_text_that_only_looks_like_a_call_stays_text(name, is_bare):
    text = TEXTS[name]
    expected = [text] if text else []
    assert read(text, is_bare=is_bare) == expected
    assert read(text, *range(0, len(text), 3), is_bare=is_bare) == expected


def test_a_bare_call_is_text_where_the_model_writes_markers():
    assert read(ROME) == [ROME]


def test_calls_come_in_pieces_as_they_come_at_once():
    """Replies put together at random from calls, halves of them and text, cut at random places."""
    dice = random.Random(8)
    parts = [text for text, _ in (*MARKED.values(), *BARE.values())] + [*TEXTS.values(), "\n", "Yes. ", "}", "<", "; "]
    for _ in range(500):
        chosen = [dice.choice(parts) for _ in range(dice.randint(1, 4))]
        text = "".join(part[: dice.randint(0, len(part))] if dice.random() < 0.4 else part for part in chosen)[:1500]
        options = {"is_bare": dice.random() < 0.5, "most": dice.choice([None, None, 1, 2])}
        whole = read(text, **options)
        for cuts in ([dice.randint(0, len(text)) for _ in range(dice.randint(1, 12))], range(len(text))):
            assert read(text, *cuts, **options) == whole, (text, cuts, options)
        said = "".join(item for item in whole if isinstance(item, str))
        if not any(isinstance(item, tuple) for item in whole):
            assert said == text


def test_text_comes_as_soon_as_it_can_be_no_call():
    reader = CallReader(NAMES, is_bare=True)
    assert [reader.push(text) for text in ("Well", ", ", "a <", "b> ", "<tool", "_call>")] == [
        ["Well"], [","], [" a"], [" <b>"], [], []
    ]  # fmt: skip
    assert reader.push("No") == [" <tool_call>No"]
    assert reader.push("<tool_call>{x") == ["<tool_call>{x"]


def test_no_more_calls_than_allowed():
    text = f"<tool_call>{ROME}</tool_call><tool_call>{ROME}</tool_call> And more."
    assert read(text, most=1) == [CALL]
    reader = CallReader(NAMES, most=1)
    reader.push(text[:-20])
    assert reader.is_done


@pytest.mark.parametrize(
    ("opening", "reply", "expected"),
    [
        ('<tool_call>\n{"name":', ' "weather", "arguments": {"city": "Rome"}}\n</tool_call>', [CALL]),
        ('<tool_call>\n{"name": "weather", "arguments":', ' {"city": "Rome"}}', [CALL]),
        ("[TOOL_CALLS]weather[ARGS]", '{"city": "Rome"}', [CALL]),
        ('{"name":', ' "weather", "parameters": {"city": "Rome"}}', [CALL]),
        ('<tool_call>\n{"name":', " Rome is sunny.", [" Rome is sunny."]),
        ('<tool_call>\n{"name": "weather", "arguments":', ' {"city": "Ro', [' {"city": "Ro']),
        ("[TOOL_CALLS]", "Sunny.", ["Sunny."]),
    ],
)
def test_a_call_goes_on_from_its_opening_which_is_never_text(opening, reply, expected):
    assert read(reply, opening=opening, is_bare=True) == expected
    assert read(reply, *range(len(reply)), opening=opening, is_bare=True) == expected


def test_a_recorded_reply_is_read_back():
    calls = [to_call("weather", {"city": "Zürich </tool_call>"}), to_call("now", {})]
    text = with_calls("I look.", calls)
    said, found = read_calls(text)
    assert said == "I look."
    assert [call["function"] for call in found] == [call["function"] for call in calls]
    assert read_calls("no calls") == ("no calls", [])
    assert json.loads(text.splitlines()[2]) == calls[0]["function"]
