"""Incremental detokenization: the beginning of the decoded whole, and nothing of a stop sequence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

REPLACEMENT = "\ufffd"  # of bytes that are no character, or not yet
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a token of byte fallback


class TextStream:
    """The text of one reply.

    `push` returns final text only: it holds back bytes that may become a character, and a possible start of a stop
    sequence. `stop_sequence` is the one that was found, and `stopped` is True then; it is not part of the text. The
    text goes on behind that of the tokens `before`, which is not part of it either. The text has those of the special
    tokens that are `shown`, by their ids.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        stop: Sequence[str],
        before: Sequence[int] = (),
        shown: Mapping[int, str] | None = None,
    ) -> None:
        self._tokenizer, self._shown = tokenizer, shown or {}
        self._decoder = _IncrementalDecoder(tokenizer, before)
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._held = ""
        self.stop_sequence: str | None = None

    @property
    def stopped(self) -> bool:
        """True once a stop sequence was found."""
        return self.stop_sequence is not None

    def push(self, token: int) -> str:
        """Return the text that is final after `token`; may be empty."""
        if token in self._shown:
            text, self._decoder = self._decoder.rest() + self._shown[token], _IncrementalDecoder(self._tokenizer, ())
            return self._give(text)
        return self._give(self._decoder.push(token))

    def flush(self) -> str:
        """Return the text held back; call at the end of the reply."""
        if self.stopped:
            return ""
        text = self._give(self._decoder.rest())
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _give(self, new: str) -> str:
        """Add text and return what of it is final."""
        self._held += new
        ends = [(index, sequence) for sequence in self._stop if (index := self._held.find(sequence)) >= 0]
        if ends:
            end, self.stop_sequence = min(ends)
            text, self._held = self._held[:end], ""
            return text
        final = len(self._held) - self._possible_stop_length()
        text, self._held = self._held[:final], self._held[final:]
        return text

    def _possible_stop_length(self) -> int:
        """Return the length of the longest end of the held text that a stop sequence starts with."""
        starts = (sequence[:size] for sequence in self._stop for size in range(1, len(sequence)))
        return max((len(start) for start in starts if self._held.endswith(start)), default=0)


class _IncrementalDecoder:
    """The text of tokens one after the other; together it is that of all tokens at once.

    Decoders look at more than one token: a blank before the first word is dropped, and a run of byte tokens is decoded
    as a whole, and wholly to replacement characters if one of its bytes is wrong. So each token is decoded behind some
    that have given text already, and a run of bytes is held back until it ends.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int]) -> None:
        self._tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self._skipped = _special_ids(self._tokenizer)
        self._ids = [token for token in before if token not in self._skipped]
        self._start, self._last = 0, len(self._ids)  # of the tokens that are decoded, and of those without text yet
        self._given = self._decode(0) if self._ids else ""  # of the text of `_ids[_start:]`
        if REPLACEMENT in self._given or (self._ids and self._is_byte(self._ids[-1])):  # not whole characters
            self._ids, self._last, self._given = [], 0, ""

    def push(self, token: int) -> str:
        """Return the text that is final after `token`."""
        if token in self._skipped:
            return ""
        self._ids.append(token)
        if self._is_byte(token):
            return ""
        text = self._decode(self._start)
        final = text.rstrip(REPLACEMENT)
        new = final[len(self._given) :]
        if not final.startswith(self._given) or not new:
            return ""
        self._given = final
        if final == text:  # nothing is held back: the next tokens are decoded behind these
            self._start, self._last = self._last, len(self._ids)
            self._given = self._decode(self._start)
        return new

    def rest(self) -> str:
        """Return the text that was held back."""
        text = self._decode(self._start)
        new, self._given = text[len(self._given) :], text
        return new

    def _is_byte(self, token: int) -> bool:
        return bool(BYTE.fullmatch(self._tokenizer.id_to_token(token) or ""))

    def _decode(self, start: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:], skip_special_tokens=True))


def special_texts(tokenizer: PreTrainedTokenizerFast, texts: Set[str]) -> dict[int, str]:
    """Return those of the special tokens that have one of these texts, by their ids."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    ids = {text: backend.token_to_id(text) for text in texts}
    return {token: text for text, token in ids.items() if token in _special_ids(backend)}


_SPECIAL: WeakKeyDictionary[Tokenizer, frozenset[int]] = WeakKeyDictionary()


def _special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of the tokens that are no text."""
    known = _SPECIAL.get(tokenizer)
    if known is None:
        added = tokenizer.get_added_tokens_decoder()
        known = _SPECIAL[tokenizer] = frozenset(token_id for token_id, token in added.items() if token.special)
    return known
