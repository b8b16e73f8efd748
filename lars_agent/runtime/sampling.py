"""Sampling: from logits to a token.

The rules of transformers' logits processors, in the same order, on the tokens that can still be drawn: those sort the
whole vocabulary for every token, which takes as long as a fifth of a small model's forward pass. Each sampler has its
own generator, so the same seed draws the same tokens.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from lars_agent.runtime.constraint import Constraint
from lars_agent.runtime.copying import Copier
from lars_agent.runtime.request import Sampling

MOST_BIAS, BANNED = 100.0, 1e4  # the largest bias, and the logits that it stands for: more than any two differ by
MOST = 1e30  # of a score: a tiny penalty or temperature makes infinities, whose softmax is not a number


class Sampler:
    """Draw the tokens of one reply to the token ids `prompt`, of those that `constraint` allows."""

    def __init__(
        self,
        sampling: Sampling,
        seed: int,
        prompt: list[int],
        copier: Copier | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.sampling, self._copier, self._constraint = sampling, copier or Copier(), constraint
        self.generator = torch.Generator().manual_seed(seed)
        self._seen = set(prompt)
        self._counts: Counter[int] = Counter()  # of the reply's tokens

    def __call__(self, logits: Tensor) -> int:
        """Return the next token, from `logits` (V,) float32, which are not modified."""
        scores = self._biased(self._copier(self._penalize(logits)))
        if self._constraint is None:
            token = self._choose(scores)
        else:
            allowed = self._constraint.allowed(len(scores))
            token = int(allowed[self._choose(scores[allowed])])
            self._constraint.append(token)
        self._seen.add(token)
        self._copier.append(token)
        self._counts[token] += 1
        return token

    def _choose(self, scores: Tensor) -> int:
        temperature = self.sampling.temperature
        return int(scores.argmax()) if temperature == 0 else self._draw((scores / temperature).clamp(-MOST, MOST))

    def _biased(self, scores: Tensor) -> Tensor:
        """Add OpenAI's logit bias."""
        if not self.sampling.logit_bias:
            return scores
        tokens, biases = zip(*self.sampling.logit_bias, strict=True)
        values = [bias if abs(bias) < MOST_BIAS else math.copysign(BANNED, bias) for bias in biases]
        return scores.index_add(0, torch.tensor(tokens), torch.tensor(values, dtype=scores.dtype))

    def _penalize(self, logits: Tensor) -> Tensor:
        """Apply the repetition penalty to tokens of prompt and reply (Keskar et al., arXiv 1909.05858), and OpenAI's
        frequency and presence penalties to tokens of the reply.
        """
        sampling, scores = self.sampling, logits
        if sampling.repetition_penalty != 1.0:
            seen = torch.tensor(list(self._seen))
            values, penalty = logits[seen], sampling.repetition_penalty
            scores = scores.clone()
            scores[seen] = torch.where(values < 0, values * penalty, values / penalty)
        if self._counts and (sampling.frequency_penalty or sampling.presence_penalty):
            counts = torch.tensor(list(self._counts.values()), dtype=scores.dtype)
            penalties = counts * sampling.frequency_penalty + sampling.presence_penalty
            scores = scores.index_add(0, torch.tensor(list(self._counts)), -penalties)
        return scores

    def _draw(self, scores: Tensor) -> int:
        sampling, token_ids = self.sampling, torch.arange(len(scores))
        if 0 < sampling.top_k < len(scores):
            kept = (scores >= scores.topk(sampling.top_k).values[-1]).nonzero()[:, 0]
            scores, token_ids = scores[kept], token_ids[kept]
        probs = scores.softmax(dim=0)
        if sampling.top_p < 1.0:
            # Tokens less likely than this have less than 1 - top_p together, and are never in the nucleus.
            likely = (probs >= (1.0 - sampling.top_p) / len(probs)).nonzero()[:, 0]
            ordered, order = probs[likely].sort(descending=True)
            before = ordered.cumsum(dim=0) - ordered
            inside = before < sampling.top_p
            inside[:1] = True  # also where top_p is 0 in float32
            kept = likely[order[inside]]
            probs, token_ids = probs[kept], token_ids[kept]
        if sampling.min_p > 0.0:
            kept = (probs >= sampling.min_p * probs.max()).nonzero()[:, 0]
            probs, token_ids = probs[kept], token_ids[kept]
        return int(token_ids[torch.multinomial(probs, 1, generator=self.generator)])
