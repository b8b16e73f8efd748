from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lars_agent.runtime.detokenize import TextStream
from tests.byte_fallback import KINDS, byte_fallback_tokenizer
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


def with_decoder(decoder) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<unk>", "▁", "▁he", "he", "##llo", "llo</w>", "</w>", ".", "!", "▁."]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


FUZZED = {
    "byte level": TOKENIZER,
    **{kind: byte_fallback_tokenizer(kind) for kind in KINDS},
    "metaspace": with_decoder(decoders.Metaspace()),
    "word pieces": with_decoder(decoders.WordPiece(cleanup=True)),
    "word ends": with_decoder(decoders.BPEDecoder()),
    "strip": with_decoder(decoders.Sequence([decoders.Fuse(), decoders.Strip("▁", 1, 0)])),
}


@pytest.mark.parametrize("tokenizer", FUZZED.values(), ids=FUZZED)
def test_the_stream_is_the_decoded_whole_whatever_tokens_come(tokenizer):
    rng = random.Random(22)
    for _ in range(300):
        few = [rng.randrange(len(tokenizer)) for _ in range(5)]
        tokens = [rng.choice(few) if rng.random() < 0.7 else rng.randrange(len(tokenizer)) for _ in range(25)]
        stream = TextStream(tokenizer, ())
        given_out = "".join(stream.push(token) for token in tokens) + stream.flush()
        assert given_out == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_that_begins_no_character_ends_no_reply(kind):
    tokenizer = byte_fallback_tokenizer(kind)
    stream = TextStream(tokenizer, ())
    given_out = [stream.push(tokenizer.convert_tokens_to_ids(word)) for word in ("He", "<0x0A>", "<0xF0>", "a", "b")]
    assert given_out == ["He", "", "", "\ufffd\ufffda", "b"]
    assert stream.flush() == ""


def test_a_stop_sequence_is_found_in_what_was_held_back_too():
    tokenizer = byte_fallback_tokenizer("gemma")
    stream = TextStream(tokenizer, ("\n\n",))
    given_out = [stream.push(tokenizer.convert_tokens_to_ids(word)) for word in ("He", "<0x0A>", "<0x0A>")]
    assert ("".join(given_out), stream.flush(), stream.stopped) == ("He", "", True)


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


@pytest.mark.parametrize(("stop", "found"), [(("END", "two"), "END"), (("two", "one"), "one"), (("x",), None)])
def test_the_stop_sequence_that_was_found_first_is_named(stop, found):
    stream = TextStream(TOKENIZER, stop)
    for token in TOKENIZER.encode("one END two", add_special_tokens=False):
        stream.push(token)
        if stream.stopped:
            break
    assert (stream.stop_sequence, stream.stopped) == (found, found is not None)


def test_nothing_of_a_stop_sequence_is_ever_given_out():
    stream = TextStream(TOKENIZER, ("<end>",))
    given_out = ""
    for token in TOKENIZER.encode("hi <end>", add_special_tokens=False):
        given_out += stream.push(token)
        assert "<" not in given_out
    assert given_out == "hi "


@pytest.mark.parametrize("tokenizer", FUZZED.values(), ids=FUZZED)
def test_a_text_goes_on_behind_its_beginning(tokenizer):
    ids = tokenizer.encode("he he llo he", add_special_tokens=False)
    for cut in range(1, len(ids)):
        stream = TextStream(tokenizer, (), ids[:cut])
        new = "".join(stream.push(token) for token in ids[cut:]) + stream.flush()
        assert tokenizer.decode(ids[:cut]) + new == tokenizer.decode(ids)
