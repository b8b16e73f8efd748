"""Log-probabilities of tokens, those of the reply and those of an echoed prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lars_agent.runtime.request import TokenChoice, TokenLogprob


def token_logprob(tokenizer: PreTrainedTokenizerFast, logits: Tensor, token: int, count: int) -> TokenLogprob:
    """Return the log-probabilities of `token` and of the `count` most likely tokens, from `logits` (V,)."""
    logprobs = logits.log_softmax(dim=0)
    top = logprobs.topk(min(count, len(logprobs))).indices.tolist() if count else []
    chosen, *others = [
        TokenChoice(token_id, str(tokenizer.decode([token_id])), float(logprobs[token_id]))
        for token_id in (token, *top)
    ]
    return TokenLogprob(chosen, tuple(others))


class PromptLogprobs:
    """Log-probabilities of the tokens of `prompt`, collected from the `logits` after each; the first has none.

    `last` are the logits (V,) after all of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompt: Sequence[int], count: int) -> None:
        self._tokenizer, self._prompt, self._count = tokenizer, prompt, count
        first = TokenChoice(prompt[0], str(tokenizer.decode([prompt[0]])), None)
        self.tokens = [TokenLogprob(first, ())]
        self.last: Tensor

    def collect(self, logits: Iterable[Tensor]) -> Iterator[None]:
        """Take in the rows (N, V) one after the other, and yield after each."""
        for rows in logits:
            for row in rows:
                if len(self.tokens) < len(self._prompt):
                    token = self._prompt[len(self.tokens)]
                    self.tokens.append(token_logprob(self._tokenizer, row, token, self._count))
            self.last = rows[-1].clone()
            yield
