"""From logits to a token.

The same rules as transformers' logits processors, in the same order, on the few words that can still be drawn: those
sort the whole vocabulary for every token, which takes as long as a fifth of a small model's pass. A generator of its
own makes the same seed draw the same words.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from lars_agent.runtime.request import Sampling

__all__ = ["Sampler"]


class Sampler:
    """Draws the words of one reply to the token ids `prompt`."""

    def __init__(self, sampling: Sampling, seed: int, prompt: list[int]) -> None:
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(seed)
        self._known = set(prompt)
        self._said: Counter[int] = Counter()

    def __call__(self, logits: Tensor) -> int:
        """The next token, from `logits` (V,) float32, which stay as they are."""
        how = self.sampling
        scores = self._penalised(logits)
        token = int(scores.argmax()) if how.temperature == 0 else self._drawn(scores / how.temperature)
        self._known.add(token)
        self._said[token] += 1
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        """What was said is less likely: in prompt and reply (Keskar et al., arXiv 1909.05858), or in the reply alone,
        and then more so the more often (OpenAI's two).
        """
        how, scores = self.sampling, logits
        if how.repetition_penalty != 1.0:
            known = torch.tensor(list(self._known))
            values = logits[known]
            scores = scores.clone()
            scores[known] = torch.where(values < 0, values * how.repetition_penalty, values / how.repetition_penalty)
        if self._said and (how.frequency_penalty or how.presence_penalty):
            counts = torch.tensor(list(self._said.values()), dtype=scores.dtype)
            taken = counts * how.frequency_penalty + how.presence_penalty
            scores = scores.index_add(0, torch.tensor(list(self._said)), -taken)
        return scores

    def _drawn(self, scores: Tensor) -> int:
        how = self.sampling
        words: Tensor | None = None  # which of the vocabulary `scores` are of; None: all of them
        if 0 < how.top_k < len(scores):
            words = (scores >= scores.topk(how.top_k).values[-1]).nonzero()[:, 0]
            scores = scores[words]
        shares = scores.softmax(dim=0)
        if how.top_p < 1.0:
            # Words with a share below this make up less than 1 - top_p together, and are none of the nucleus.
            likely = (shares >= (1.0 - how.top_p) / len(shares)).nonzero()[:, 0]
            ordered, order = shares[likely].sort(descending=True)
            before = ordered.cumsum(dim=0) - ordered
            kept = likely[order[before < how.top_p]]
            shares, words = shares[kept], kept if words is None else words[kept]
        if how.min_p > 0.0:
            kept = (shares >= how.min_p * shares.max()).nonzero()[:, 0]
            shares, words = shares[kept], kept if words is None else words[kept]
        drawn = int(torch.multinomial(shares, 1, generator=self.generator))
        return drawn if words is None else int(words[drawn])
