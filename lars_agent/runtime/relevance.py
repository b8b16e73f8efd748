"""Which past question a new one asks again, and what kind of question it is: by what the base model is about to reply.

The base model's final hidden state at a prompt's last token is what its reply begins from: questions to one answer are
near each other there, in whatever words they are asked. So that they are compared by what they ask and not by whom they
are about, all are read about the same (`about_anything`); a past question that is one that people often ask counts in
all the words that it has (`wordings_about_anything`). No second model is needed. Hidden states of all prompts are much
alike (Ethayarajh, arXiv 1909.00512), so that they are standardized by those of everyday questions first.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
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

KEPT = 4000  # vectors of questions
RIDGE = 3.0
KIND_RIDGE = 1.0
READ_AT_ONCE = 2  # of them, while a request waits
LEAST_TAUGHT = 2  # questions of a kind, for what they were taught to hold for it


class Relevance:
    """Compares questions by `embed`, which returns the hidden state (H,) float32 at the end of a question's prompt.

    It needs those of the shipped questions first, most of a minute's work that is done one by one: see `warm`. With the
    everyday ones, which come first, questions can be compared. They are kept in `folder`, if it can be written, for the
    `model`, a name of weights and precision.
    """

    def __init__(self, embed: Callable[[str], Tensor], folder: Path, model: str) -> None:
        self._embed = embed
        self._vectors: OrderedDict[str, Tensor] = OrderedDict()
        shipped = json.loads(_shipped_text("questions.json"))
        everyday = shipped["facts"] + shipped["general"]
        self._wordings = {text: number for number, text in enumerate(dict.fromkeys(wordings_about_anything()))}
        self._signs = torch.tensor([1.0] * len(shipped["facts"]) + [-1.0] * len(shipped["general"]))
        self._kinds: dict[str, list[str]] = json.loads(_shipped_text("kinds.json"))
        self._due: list[str] = [*everyday, *self._wordings, *(text for texts in self._kinds.values() for text in texts)]
        self._wanted: list[str] = []  # other questions, to be read when there is time
        self._file = folder / f"questions-{_digest([*self._due, model])}.safetensors"
        self._read: list[Tensor] = []
        with suppress(SafetensorError, OSError, KeyError):
            self._read = list(read_tensors(self._file)["read"])
            self._due = []

    @property
    def can_compare(self) -> bool:
        """Whether questions can be compared, and told from requests."""
        return len(self._read) >= len(self._signs)

    @property
    def is_ready(self) -> bool:
        """Whether all shipped questions are read, so that kinds can be told too."""
        return len(self._read) == len(self._signs) + len(self._wordings) + sum(map(len, self._kinds.values()))

    def warm(self) -> bool:
        """Read the next shipped or wanted question; return False once none is left, or reading has failed."""
        if self._due:
            try:
                self._read.append(self._embed(self._due.pop(0)))
            except Exception:
                self._due.clear()  # questions are not compared, then
                raise
            if not self._due:
                with suppress(OSError, DiskFull):
                    write_atomically(self._file, tensor_file({"read": torch.stack(self._read)}))
        elif self._wanted:
            self._vector(self._wanted.pop())
        return bool(self._due or self._wanted)

    def cosines(self, question: str, others: Sequence[str]) -> list[float]:
        """Return the cosine of each of `others` to `question`."""
        asked = self._vector(about_anything(question)) if others else torch.empty(0)
        return [float((self._rows(other) @ asked).max()) for other in others]

    def _rows(self, question: str) -> Tensor:
        """Return the vectors (N, H) of a question and of those of its wordings that are read."""
        numbers = [len(self._signs) + self._wordings[text] for text in wordings_about_anything(question)]
        own, alike = self._vector(about_anything(question))[None], [one for one in numbers if one < len(self._read)]
        return torch.cat([own, self._standardized(torch.stack([self._read[one] for one in alike]))]) if alike else own

    def asks_fact(self, question: str) -> bool:
        """Return whether `question` asks for a fact about somebody or something, rather than for help or a text."""
        return float(self._fact_direction @ self._vector(question)) > 0

    def kind_of(self, question: str) -> str:
        """Return the kind of a question about nobody, as `kinds.json` names it."""
        return self._kinds_of([question])[0]

    def kinds_taught(self, questions: Sequence[str]) -> set[str] | None:
        """Return the kinds of which there are enough among `questions`; None until all are read, a few at each call.

        `warm` reads them too.
        """
        unread = [question for question in questions if question not in self._vectors]
        for question in unread[:READ_AT_ONCE]:
            self._vector(question)
        self._wanted = unread[READ_AT_ONCE:]
        if self._wanted:
            return None
        counts = Counter(self._kinds_of(questions))
        return {kind for kind, count in counts.items() if count >= LEAST_TAUGHT}

    def _kinds_of(self, questions: Sequence[str]) -> list[str]:
        if not questions:
            return []
        scores = _with_one(torch.stack([self._vector(question) for question in questions])) @ self._kind_directions.T
        names = list(self._kinds)
        return [names[number] for number in scores.argmax(1).tolist()]

    def forget(self) -> None:
        """Free the vectors of all questions."""
        self._vectors.clear()
        self._wanted.clear()

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
    def _fact_direction(self) -> Tensor:
        """The weights (H,) of a ridge regression that tells those for a fact from the others."""
        rows = self._standardized(torch.stack(self._read[: len(self._signs)]))
        direction: Tensor = rows.T @ torch.linalg.solve(rows @ rows.T + RIDGE * torch.eye(len(rows)), self._signs)
        return direction

    @cached_property
    def _kind_directions(self) -> Tensor:
        """The weights (K, H + 1) of a ridge regression that tells kinds apart; questions of a rare kind count more."""
        sizes = torch.tensor([len(texts) for texts in self._kinds.values()])
        numbers = torch.arange(len(sizes)).repeat_interleave(sizes)
        rows = _with_one(self._standardized(torch.stack(self._read[-len(numbers) :])))
        signs = 2.0 * torch.nn.functional.one_hot(numbers).float() - 1.0
        weights = (len(numbers) / len(sizes) / sizes[numbers])[:, None] ** 0.25  # squared, in the loss
        weighted = rows * weights
        kernel = weighted @ weighted.T + KIND_RIDGE * torch.eye(len(numbers))
        directions: Tensor = (weighted.T @ torch.linalg.solve(kernel, signs * weights)).T
        return directions


def everyday_questions() -> list[str]:
    """Return all shipped questions and requests."""
    questions, kinds = (json.loads(_shipped_text(name)) for name in ("questions.json", "kinds.json"))
    return [text for texts in (*questions.values(), *kinds.values()) for text in texts]


def _with_one(rows: Tensor) -> Tensor:
    """Return rows (N, H) with a constant behind them, which takes a part of what all have in common."""
    return torch.cat([rows, torch.full((len(rows), 1), 0.3)], dim=1)


def _shipped_text(name: str) -> str:
    return (files("lars_agent.data") / name).read_text(encoding="utf-8")


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
