"""Texts of tokens, from pieces that hold several tokens or none."""

from __future__ import annotations

import pytest

from lars_agent.runtime.request import Generation, Piece, TokenChoice, TokenLogprob
from service.api.token_texts import tokens_of


def logprobs(*ids: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(TokenChoice(number, "\ufffd", -float(number)), ()) for number in ids)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([Piece("a", logprobs(1)), Piece("b", logprobs(2))], [(1, "a"), (2, "b"), (9, "")]),
        ([Piece("🎉", logprobs(1, 2, 3))], [(1, ""), (2, ""), (3, "🎉"), (9, "")]),
        ([Piece("a", logprobs(1)), Piece("b", logprobs(2, 3), is_last=True)], [(1, "a"), (2, ""), (3, "b")]),
        ([Piece("", logprobs(1), is_last=True)], [(1, "")]),
        ([Piece("a", logprobs(1)), Piece("held", ())], [(1, "a"), (9, "held")]),
        ([], [(9, "")]),
    ],
    ids=["one by one", "parts of a character", "ends by itself", "only a stop sequence", "text held back", "nothing"],
)
def test_each_token_is_there_once_and_the_texts_are_the_reply(pieces, expected):
    ends_itself = bool(pieces) and pieces[-1].is_last
    text = "".join(piece.text for piece in pieces)
    end = None if ends_itself else logprobs(9)[0]
    tokens = tokens_of(pieces, Generation(text, "length" if ends_itself else "eos_token", 3, 1, None, 0, (), end=end))
    assert [(token.id, token.text) for token in tokens] == expected
    assert [token.logprob for token in tokens] == [-float(number) for number, _ in expected]
    assert "".join(token.text for token in tokens if not token.special) == text
    assert [token.special for token in tokens[:-1]] == [False] * (len(tokens) - 1)
