"""How much of a question another text holds, in the same words or in words like them.

Each token of the question is compared with the nearest one of the text, by the model's own token embeddings, and counts
the more the fewer everyday questions have it: the recall of BERTScore (Zhang et al., arXiv 1904.09675) with embeddings
that need no forward pass. That `the staircase` may be the stairwell shows so, not whether my sister is meant or my
brother: embeddings of such words are near each other too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lars_agent.runtime.request import GenerationRequest, Near

MOST_TOKENS = 512  # of a text; what follows is left out
LEAST_SHARE = 0.5  # of each other, that two questions hold of which one perhaps has the other's answer
SHARE_WEIGHT = 2.0  # beside a cosine
MOST_PERHAPS = 8  # of past questions that perhaps are


def ordered(shares: Mapping[int, float], cosines: Sequence[float]) -> list[Near]:
    """Return the indices of past questions with their cosines, the nearest first by both."""
    found = list(zip(shares, cosines, strict=True))
    return sorted(found, key=lambda near: near[1] + SHARE_WEIGHT * shares[near[0]], reverse=True)


Read = tuple[Tensor, Tensor]


def _share(asked: Read, told: Read) -> float:
    weights, directions = asked
    if not len(told[1]) or not weights.any():
        return 0.0
    return float(weights @ (directions @ told[1].T).amax(1) / weights.sum())


class Overlap:
    """Compares texts by `embed`, which returns the embeddings (T, H) of token ids (T,).

    `everyday` are questions that show which tokens all questions have.
    """

    def __init__(self, tokenizer: Any, embed: Callable[[Tensor], Tensor], everyday: Sequence[str]) -> None:
        self._tokenizer, self._embed, self._everyday = tokenizer, embed, everyday

    def fitting(self, request: GenerationRequest) -> dict[int, float]:
        """Return which past questions fit the last message, by index, and the share that each and it hold of the other.

        Of those that perhaps do, the nearest few are taken.
        """
        asked, shares = self._read(request.question), dict[int, float]()
        for index, past in enumerate(request.recalled):
            told = self._read(f"{past.question} {past.answer}")
            shares[index] = (_share(asked, told) + _share(self._read(past.question), asked)) / 2
        perhaps = [index for index in shares if request.recalled[index].fit == "perhaps"]
        perhaps.sort(key=lambda index: shares[index], reverse=True)
        far = {index for place, index in enumerate(perhaps) if place >= MOST_PERHAPS or shares[index] < LEAST_SHARE}
        return {index: share for index, share in shares.items() if index not in far}

    def share(self, question: str, text: str) -> float:
        """Return the share of `question` that stands in `text`, from about 0 to 1."""
        return _share(self._read(question), self._read(text))

    @torch.inference_mode()
    def _read(self, text: str) -> Read:
        """Return the weight (T,) and the direction (T, H) of each token."""
        ids = self._ids(text)
        directions = normalize(self._embed(torch.tensor(ids, dtype=torch.long)).float() - self._mean, dim=-1)
        return torch.tensor([self._weight(token) for token in ids]), directions

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(f" {text.casefold()}" if text else "", add_special_tokens=False)
        return ids[:MOST_TOKENS]

    def _weight(self, token: int) -> float:
        return self._weights.get(token, math.log(len(self._everyday) + 1))

    @cached_property
    def _mean(self) -> Tensor:
        """What the embeddings of everyday tokens have in common (H,)."""
        return self._embed(torch.tensor(sorted(self._weights))).float().mean(0)

    @cached_property
    def _weights(self) -> dict[int, float]:
        """The inverse document frequency of each everyday token."""
        counts = Counter(token for text in self._everyday for token in set(self._ids(text)))
        return {token: math.log((len(self._everyday) + 1) / (count + 1)) for token, count in counts.items()}
