"""Which past question a new one asks again, and whether it asks for a fact: by what the base model is about to reply.

The base model's final hidden state at a prompt's last token is what its reply begins from: questions to one answer are
near each other there, in whatever words they are asked. So that they are compared by what they ask and not by whom they
are about, all are read about the same (`about_anything`); a past question that is one that people often ask counts in
all the words that it has (`wordings_about_anything`). No second model is needed. Hidden states of all prompts are much
alike (Ethayarajh, arXiv 1909.00512), so that they are standardized by those of everyday questions first.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from lars_agent.english.subjects import about_anything
from lars_agent.english.wordings import wordings_about_anything
from lars_agent.errors import DiskFull
from lars_agent.files import write_atomically
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.runtime.request import Near

KEPT = 4000  # vectors of questions
RIDGE = 3.0


class Relevance:
    """Compares questions by `embed`, which returns the hidden state (H,) float32 at the end of a question's prompt.

    It needs those of the shipped questions first, seconds of work that is done one by one: see `warm`. They are kept in
    `folder`, if it can be written, for the `model`, a name of weights and precision.
    """

    def __init__(self, embed: Callable[[str], Tensor], folder: Path, model: str) -> None:
        self._embed = embed
        self._vectors: OrderedDict[str, Tensor] = OrderedDict()
        shipped = json.loads((files("lars_agent.data") / "questions.json").read_text(encoding="utf-8"))
        everyday = shipped["facts"] + shipped["general"]
        self._wordings = {text: number for number, text in enumerate(dict.fromkeys(wordings_about_anything()))}
        self._signs = torch.tensor([1.0] * len(shipped["facts"]) + [-1.0] * len(shipped["general"]))
        self._due: list[str] = [*everyday, *self._wordings]
        self._file = folder / f"questions-{_digest([*self._due, model])}.safetensors"
        self._read: list[Tensor] = []
        with suppress(SafetensorError, OSError, KeyError):
            self._read = list(read_tensors(self._file)["read"])
            self._due = []

    @property
    def is_ready(self) -> bool:
        """Whether questions can be compared."""
        return len(self._read) == len(self._signs) + len(self._wordings)

    def warm(self) -> bool:
        """Read the next shipped question; return False once none is left, or reading has failed."""
        if self._due:
            try:
                self._read.append(self._embed(self._due.pop(0)))
            except Exception:
                self._due.clear()  # questions are not compared, then
                raise
            if not self._due:
                with suppress(OSError, DiskFull):
                    write_atomically(self._file, tensor_file({"read": torch.stack(self._read)}))
        return bool(self._due)

    def order(self, question: str, others: Sequence[str]) -> list[Near]:
        """Return the indices of `others`, the one nearest to `question` first, each with its cosine to that."""
        if not others:
            return []
        asked = self._vector(about_anything(question))
        cosines, order = torch.stack([(self._rows(other) @ asked).max() for other in others]).sort(
            descending=True, stable=True
        )
        return list(zip(order.tolist(), cosines.tolist(), strict=True))

    def _rows(self, question: str) -> Tensor:
        """Return the vectors (N, H) of a question and of its wordings."""
        alike = [self._shipped[self._wordings[text]] for text in wordings_about_anything(question)]
        return torch.stack([self._vector(about_anything(question)), *alike])

    def asks_fact(self, question: str) -> bool:
        """Return whether `question` asks for a fact about somebody or something, rather than for help or a text."""
        return float(self._fact_direction @ self._vector(question)) > 0

    def forget(self) -> None:
        """Free the vectors of all questions."""
        self._vectors.clear()

    def _vector(self, question: str) -> Tensor:
        """Return the standardized vector (H,) of norm 1."""
        if question not in self._vectors:
            self._vectors[question] = self._standardized(self._embed(question))
            while len(self._vectors) > KEPT:
                self._vectors.popitem(last=False)
        self._vectors.move_to_end(question)
        return self._vectors[question]

    def _standardized(self, vectors: Tensor) -> Tensor:
        mean, deviation = self._common
        return normalize((vectors - mean) / (deviation + 1e-6), dim=-1)

    @cached_property
    def _common(self) -> tuple[Tensor, Tensor]:
        """What the everyday questions have in common: means and standard deviations (H,)."""
        everyday = torch.stack(self._read[: len(self._signs)])
        return everyday.mean(0), everyday.std(0)

    @cached_property
    def _shipped(self) -> Tensor:
        """The standardized vectors (W, H) of the wordings."""
        return self._standardized(torch.stack(self._read[len(self._signs) :]))

    @cached_property
    def _fact_direction(self) -> Tensor:
        """The weights (H,) of a ridge regression that tells those for a fact from the others."""
        rows = self._standardized(torch.stack(self._read[: len(self._signs)]))
        direction: Tensor = rows.T @ torch.linalg.solve(rows @ rows.T + RIDGE * torch.eye(len(rows)), self._signs)
        return direction


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
