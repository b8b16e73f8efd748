"""Incremental detokenization: whole characters only, and nothing of a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast


class TextStream:
    """The text of one reply.

    `push` returns final text only: it holds back half a character, and a possible start of a stop sequence. `stopped`
    is True once a stop sequence was found; it is not part of the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Return the text that is final after `token`; may be empty."""
        self._held += self._stream.step(self._tokenizer, token) or ""
        ends = [index for sequence in self._stop if (index := self._held.find(sequence)) >= 0]
        if ends:
            self.stopped = True
            text, self._held = self._held[: min(ends)], ""
            return text
        final = len(self._held) - self._possible_stop_length()
        text, self._held = self._held[:final], self._held[final:]
        return text

    def flush(self) -> str:
        """Return the text held back; call at the end of the reply."""
        text, self._held = self._held, ""
        return text

    def _possible_stop_length(self) -> int:
        """Return the length of the longest end of the held text that a stop sequence starts with."""
        starts = (sequence[:size] for sequence in self._stop for size in range(1, len(sequence)))
        return max((len(start) for start in starts if self._held.endswith(start)), default=0)
