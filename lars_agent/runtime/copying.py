"""Make a reply likelier that goes on with a recalled answer, token by token.

A small model that has the right answer in its prompt often does not use it. As in pointer networks (See et al., arXiv
1704.04368) and nearest-neighbour language models (arXiv 1911.00172), the next token of each recalled answer, as far as
the reply agrees with it, gets a bonus; which of several answers goes on is the model's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_AGREEMENT = 2  # tokens, where the reply did not begin as the answer did


class Copier:
    """Bonus of `strength` nats for the tokens that continue one of `answers`, each with its end token.

    `begun` are the reply's first tokens, where the client has given them.
    """

    def __init__(self, answers: Sequence[Sequence[int]] = (), strength: float = 0.0, begun: Sequence[int] = ()) -> None:
        self._answers, self._strength = [list(answer) for answer in answers], strength
        self._reply = list(begun)

    def append(self, token: int) -> None:
        """Take in the reply's next token."""
        self._reply.append(token)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return `logits` (V,) with the bonus; the same tensor where nothing is to be continued."""
        following = sorted({token for answer in self._answers if (token := self._next(answer)) is not None})
        if not following or not self._strength:
            return logits
        return logits.index_add(0, torch.tensor(following), torch.full((len(following),), self._strength))

    def _next(self, answer: list[int]) -> int | None:
        """Return the token that follows in `answer`; None where the reply does not agree with it."""
        reply, length = self._reply, len(self._reply)
        if reply == answer[:length]:
            return answer[length] if length < len(answer) else None
        last = reply[-LEAST_AGREEMENT:]
        for end in range(len(answer) - 1, LEAST_AGREEMENT - 1, -1):
            if last == answer[end - LEAST_AGREEMENT : end]:
                return answer[end]
        return None
