"""A text's embedding as it goes from the engine process to the daemon. No torch here: the daemon has none."""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

Input = str | Sequence[int]  # a text, or the ids of its tokens


@dataclass(frozen=True)
class Embedded:
    """An embedding: its numbers, little-endian float32 in base64, and how many `tokens` of the text were read."""

    data: str
    tokens: int

    def numbers(self, dimensions: int | None = None) -> array[float]:
        """Return the vector, of norm 1; of its first `dimensions` numbers, that have norm 1 again."""
        numbers = array("f", base64.b64decode(self.data))
        if dimensions is None or dimensions >= len(numbers):
            return numbers
        norm = math.hypot(*numbers[:dimensions]) or 1.0
        return array("f", (number / norm for number in numbers[:dimensions]))


def encoded(numbers: array[float]) -> str:
    """Return the numbers as `Embedded.data` has them."""
    return base64.b64encode(numbers.tobytes()).decode()


embedded_from = TypeAdapter(list[Embedded]).validate_python  # the inverse of `dataclasses.asdict`
