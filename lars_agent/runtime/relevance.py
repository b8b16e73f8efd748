"""Which past question a new one asks again, and whether it asks for a fact: by what the base model is about to reply.

The base model's final hidden state at a prompt's last token is what its reply begins from: questions to one answer are
near each other there, in whatever words they are asked; a past question counts in all the wordings that it would be
trained in. No second model is needed. Hidden states of all prompts are much alike (Ethayarajh, arXiv 1909.00512), so
that they are standardized by those of everyday questions first.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from lars_agent.english.wordings import other_wordings
from lars_agent.errors import DiskFull
from lars_agent.files import write_atomically
from lars_agent.ops.safetensors_io import read_tensors, tensor_file
from lars_agent.runtime.request import Near

KEPT = 4000  # vectors of questions
WORDINGS = 8  # of a past question, beside its own
RIDGE = 1.0


class Relevance:
    """Compares questions by `embed`, which returns the hidden state (H,) float32 at the end of a question's prompt.

    It needs those of the shipped everyday questions first, seconds of work that is done one by one: see `warm`. They
    are kept in `folder`, if it can be written, for the `model`, a name of weights and precision. Other wordings of past
    questions count as far as they have been read: see `unread`; what is left of them `warm` reads, too.
    """

    def __init__(self, embed: Callable[[str], Tensor], folder: Path, model: str) -> None:
        self._embed = embed
        self._vectors: OrderedDict[str, Tensor] = OrderedDict()
        self._later: OrderedDict[str, None] = OrderedDict()  # wordings
        text = (files("lars_agent.data") / "questions.json").read_text(encoding="utf-8")
        shipped = json.loads(text)
        self._due: list[str] = shipped["facts"] + shipped["general"]
        self._file = folder / f"questions-{hashlib.sha256((text + model).encode()).hexdigest()[:12]}.safetensors"
        self._signs = torch.tensor([1.0] * len(shipped["facts"]) + [-1.0] * len(shipped["general"]))
        self._everyday: list[Tensor] = []
        with suppress(SafetensorError, OSError, KeyError):
            self._everyday = list(read_tensors(self._file)["everyday"])
            self._due = []

    @property
    def is_ready(self) -> bool:
        """Whether questions can be compared."""
        return len(self._everyday) == len(self._signs)

    def warm(self) -> bool:
        """Read the next everyday question, or wording; return False once none is left, or reading has failed."""
        if self._due:
            try:
                self._everyday.append(self._embed(self._due.pop(0)))
            except Exception:
                self._due.clear()  # questions are not compared, then
                raise
            if not self._due:
                with suppress(OSError, DiskFull):
                    write_atomically(self._file, tensor_file({"everyday": torch.stack(self._everyday)}))
        elif self._later:
            self._vector(self._later.popitem(last=False)[0])
        return bool(self._due or self._later)

    def unread(self, others: Sequence[str]) -> list[str]:
        """Return the wordings of past questions that are still to be read, some of each first: see `read`.

        There are none if there is only one to choose.
        """
        rows = zip_longest(*(other_wordings(other)[:WORDINGS] for other in others)) if len(others) > 1 else ()
        return [text for row in rows for text in row if text is not None and text not in self._vectors]

    def read(self, text: str) -> None:
        """Read a question, unless it has been."""
        self._vector(text)

    def order(self, question: str, others: Sequence[str]) -> list[Near]:
        """Return the indices of `others`, the one nearest to `question` first, each with its cosine to that."""
        if not others:
            return []
        rows = [torch.stack([self._vector(text) for text in (other, *self._read_wordings(other))]) for other in others]
        asked = self._vector(question)
        self._later |= dict.fromkeys(self.unread(others))
        cosines, order = torch.stack([(row @ asked).max() for row in rows]).sort(descending=True, stable=True)
        return list(zip(order.tolist(), cosines.tolist(), strict=True))

    def _read_wordings(self, question: str) -> list[str]:
        return [text for text in other_wordings(question)[:WORDINGS] if text in self._vectors]

    def asks_fact(self, question: str) -> bool:
        """Return whether `question` asks for a fact about somebody or something, rather than for help or a text."""
        return float(self._fact_direction @ self._vector(question)) > 0

    def forget(self) -> None:
        """Free the vectors of all questions."""
        self._vectors.clear()
        self._later.clear()

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
        everyday = torch.stack(self._everyday)
        return everyday.mean(0), everyday.std(0)

    @cached_property
    def _fact_direction(self) -> Tensor:
        """The weights (H,) of a ridge regression that tells those for a fact from the others."""
        rows = self._standardized(torch.stack(self._everyday))
        direction: Tensor = rows.T @ torch.linalg.solve(rows @ rows.T + RIDGE * torch.eye(len(rows)), self._signs)
        return direction
