"""Token ids become text as they come: whole characters only, and nothing of a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast


class TextStream:
    """The text of one reply.

    `push` gives out what can no longer change: it holds back half a character and what may be the beginning of a stop
    sequence. Attributes: `stopped`, True once a stop sequence was met (it is not part of the text).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is sure after `token`; may be empty."""
        self._held += self._stream.step(self._tokenizer, token) or ""
        ends = [place for place in (self._held.find(sequence) for sequence in self._stop) if place >= 0]
        if ends:
            self.stopped = True
            return self._release(min(ends), drop_rest=True)
        return self._release(len(self._held) - self._may_begin_stop())

    def flush(self) -> str:
        """What was held back; the reply has ended."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, length: int, *, drop_rest: bool = False) -> str:
        text, self._held = self._held[:length], "" if drop_rest else self._held[length:]
        return text

    def _may_begin_stop(self) -> int:
        """The length of the longest ending of the held text that a stop sequence begins with."""
        return max(
            (
                size
                for sequence in self._stop
                for size in range(1, len(sequence))
                if self._held.endswith(sequence[:size])
            ),
            default=0,
        )
