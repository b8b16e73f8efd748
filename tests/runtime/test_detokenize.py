from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lars_agent.runtime.detokenize import TextStream
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pieces(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream, out = TextStream(TOKENIZER, stop), []
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        out.append(stream.push(token))
        if stream.stopped:
            break
    return [*out, stream.flush()], stream.stopped


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_pieces_are_whole_characters_and_together_the_text(text):
    out, stopped = pieces(text)
    assert "".join(out) == text
    assert "\ufffd" not in "".join(out) or "\ufffd" in text
    assert not stopped


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one END two", ("END",), "one "),
        ("aab", ("ab",), "a"),
        ("abcab", ("abd", "cab"), "ab"),
        ("plain", ("zzz",), "plain"),
    ],
)
def test_text_ends_before_the_first_stop_sequence(text, stop, expected):
    out, stopped = pieces(text, stop)
    assert "".join(out) == expected
    assert stopped == (text != expected)


def test_nothing_of_a_stop_sequence_is_ever_given_out():
    stream = TextStream(TOKENIZER, ("<end>",))
    given_out = ""
    for token in TOKENIZER.encode("hi <end>", add_special_tokens=False):
        given_out += stream.push(token)
        assert "<" not in given_out
    assert given_out == "hi "
