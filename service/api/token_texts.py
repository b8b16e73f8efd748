"""The tokens of a reply with their texts, which are whole characters although tokens may be parts of them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from lars_agent.runtime.request import Generation, Piece, TokenChoice
from service.api.fields import Reply


class TokenBody(Reply):
    """A token of the reply."""

    id: int
    text: str = Field(
        description="The text that is final with it; empty in the midst of a character, or of a possible stop sequence."
    )
    logprob: float = Field(description="Natural logarithm of its probability before sampling.")
    special: bool = Field(default=False, description="True for the token that ends the reply, which is no text.")


class TokenTexts:
    """Assigns the text of a reply's pieces to its tokens; the texts of all tokens together are the reply.

    The token with which the reply ends is returned by `last` alone.
    """

    def __init__(self) -> None:
        self._text = ""  # that belongs to the next token
        self._last: TokenBody | None = None

    def of(self, piece: Piece) -> list[TokenBody]:
        """Return the tokens of a piece; all its text is that of the last one."""
        self._text += piece.text
        tokens = [_body(token.chosen, "") for token in piece.logprobs]
        if tokens:
            tokens[-1].text, self._text = self._text, ""
        if piece.is_last:
            self._last = tokens.pop()
        return tokens

    def last(self, generation: Generation) -> TokenBody:
        """Return the token that ends the reply; it is special if it stands for no text."""
        if self._last is not None:
            return self._last
        assert generation.end is not None, "probabilities were requested"
        return _body(generation.end.chosen, self._text, special=not self._text)


def tokens_of(pieces: Iterable[Piece], generation: Generation) -> list[TokenBody]:
    """Return the tokens of a whole reply, the last one included."""
    texts = TokenTexts()
    return [token for piece in pieces for token in texts.of(piece)] + [texts.last(generation)]


def _body(token: TokenChoice, text: str, *, special: bool = False) -> TokenBody:
    assert token.logprob is not None, "a prompt's first token alone has none"
    return TokenBody(id=token.token_id, text=text, logprob=token.logprob, special=special)
