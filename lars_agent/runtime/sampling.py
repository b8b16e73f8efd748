"""From logits to a token: transformers' own logits processors, and a generator with a seed of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class Sampler:
    """Chooses tokens; the same seed chooses the same ones.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `repetition_penalty` 1 are off.
    """

    def __init__(self, *, temperature: float, top_p: float, top_k: int, repetition_penalty: float, seed: int) -> None:
        self.greedy = temperature == 0
        self.generator = torch.Generator().manual_seed(seed)
        self.processors = LogitsProcessorList()
        if repetition_penalty != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
        if not self.greedy:
            self.processors.append(TemperatureLogitsWarper(temperature))
            if top_k > 0:
                self.processors.append(TopKLogitsWarper(top_k))
            if top_p < 1.0:
                self.processors.append(TopPLogitsWarper(top_p))

    def __call__(self, context: list[int], logits: Tensor) -> int:
        """The next token after the token ids `context`, from `logits` (V,)."""
        scores = self.processors(torch.tensor([context]), logits[None])[0]  # type: ignore[arg-type]
        if self.greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=0), 1, generator=self.generator))
