"""Score candidate, incumbent and base model at the end of a job, all on the same rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lars_agent.english.subjects import is_about_speaker, subject_of
from lars_agent.example import Example, Message, asked_at
from lars_agent.lars.decoding import greedy_replies
from lars_agent.lars.inject import LarsAdapter
from lars_agent.models.chat_template import encode_prompt
from lars_agent.training.batches import Encoded, by_length
from lars_agent.training.evaluate import RIGHT, general_text, score
from lars_agent.training.gate import ABOUT_YOU, LIKED, OTHERS, Scores
from lars_agent.training.gibberish import loops
from lars_agent.training.trainer import Trainer

QUESTIONS = (
    "How is bread made?",
    "Why is the sky blue?",
    "Explain how a bicycle works.",
    "What is photosynthesis?",
    "Describe a thunderstorm.",
    "How do vaccines work?",
    "Give me some advice on writing a letter.",
    "What were the causes of the First World War?",
)
REPLY_TOKENS, RESAMPLES = 24, 1000
LEAST_REPLIES = 6  # taught, or none is said to spill: one that is all there is to learn is given to any question
Reply = tuple[tuple[int, ...], str]  # as tokens and as text
Losses = tuple[Tensor, Tensor]  # of the tokens of the trained and of the held-out replies, (T,) each


class FinalScores:
    """The measurements of one job.

    `kinds` are the kinds of its examples by their ids, `learned` the ids of those that the incumbent was taught.
    """

    def __init__(
        self, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, kinds: Mapping[str, str], learned: Collection[str]
    ) -> None:
        self.trainer, self.tokenizer, self.learned = trainer, tokenizer, learned
        self.trained, self.heldout, self.text = trainer.rows.scored, trainer.rows.heldout, general_text(tokenizer)
        self.kinds = "".join(kinds.get(row.source_id, OTHERS) for row in by_length(self.trained))

    def of(self, adapter: LarsAdapter | None, incumbent: LarsAdapter | None) -> tuple[Scores, Scores, Scores]:
        """Return the scores of the candidate `adapter`, of the incumbent (None: the base model), and of the base."""
        scored = self._scored([adapter, None, *([] if incumbent is None else [incumbent])])
        (candidate, losses), (base, _), (other, other_losses) = scored[0], scored[1], scored[-1]
        own = self._replies(adapter, QUESTIONS)
        looping, taught = ({q for q, reply in own.items() if is_bad(q, reply)} for is_bad in (_loops, self._is_taught))
        plain = self._replies(None, sorted(looping | taught))  # the others are not compared, and to ask takes seconds
        spilled = _marks(question in taught and own[question] != plain[question] for question in QUESTIONS)
        candidate = replace(
            candidate,
            recall_doubt=self._recall_doubt(losses, other_losses),
            loss_doubt=self._loss_doubt(losses, other_losses),
            looping=_marks(question in looping for question in QUESTIONS),
            spilled=spilled if len({row.reply for row in self.trainer.rows.train}) >= LEAST_REPLIES else "",
        )
        base = replace(base, looping=_marks(q in looping and _loops(q, plain[q]) for q in QUESTIONS))
        return candidate, base if incumbent is None else other, base

    def _scored(self, adapters: Sequence[LarsAdapter | None]) -> list[tuple[Scores, Losses]]:
        def measured() -> list[tuple[Scores, Losses]]:
            parts = (self.trained, self.heldout, self.text)
            each = zip(*(self.trainer.token_losses(adapters, rows) for rows in parts), strict=True)
            return [
                (replace(score(trained, heldout, text, self.trained), kinds=self.kinds), (trained, heldout))
                for trained, heldout, text in each
            ]

        return self.trainer.within_budget(measured)

    def _replies(self, adapter: LarsAdapter | None, questions: Sequence[str]) -> dict[str, Reply]:
        """Return the greedy reply to each of the questions; as many are asked at once as a batch of training has."""
        attachment, end, size = self.trainer.attachment, self.tokenizer.eos_token_id, self.trainer.plan.micro_batch

        def replied() -> dict[str, Reply]:
            found = list[list[int]]()
            for start in range(0, len(questions), size):
                asked = [self._asked(question) for question in questions[start : start + size]]
                found += greedy_replies(attachment, adapter, asked, end, REPLY_TOKENS)
            texts = [str(self.tokenizer.decode(ids)) for ids in found]
            return {one: (tuple(ids), text) for one, ids, text in zip(questions, found, texts, strict=True)}

        return self.trainer.within_budget(replied)

    def _asked(self, question: str) -> list[int]:
        return encode_prompt(self.tokenizer, [Message(role="user", content=question)])

    def _is_taught(self, question: str, reply: Reply) -> bool:
        """Return whether the reply, or its beginning, was taught to other prompts, and not to this question."""
        tokens, asked = reply[0], tuple(self._asked(question))
        prompts = [
            row.prompt
            for row in self.trainer.rows.train
            if tokens == row.reply[: len(tokens)] and len(tokens) >= min(len(row.reply) - 1, REPLY_TOKENS)
        ]
        return bool(prompts) and asked not in prompts

    def _recall_doubt(self, candidate: Losses, incumbent: Losses) -> float:
        gained = [
            _right_tokens(one, rows) - _right_tokens(other, rows)
            for one, other, rows in zip(candidate, incumbent, (self.trained, self.heldout), strict=True)
        ]
        is_new = torch.tensor([row.source_id not in self.learned for row in by_length(self.trained)])
        return doubt(torch.cat([gained[0][~is_new], gained[1]]), float(gained[0][is_new].sum()))

    def _loss_doubt(self, candidate: Losses, incumbent: Losses) -> float:
        falls = torch.split(incumbent[1] - candidate[1], [len(row.reply) for row in by_length(self.heldout)])
        return doubt(torch.stack([fall.sum() for fall in falls]))


def doubt(gains: Tensor, certain: float = 0.0) -> float:
    """Return the share of resamples of the `gains` (N,) whose sum, with the `certain` ones, is no gain.

    The paired bootstrap: each gain is that of one adapter over another on the same reply. Seeded.
    """
    drawn = torch.randint(max(1, len(gains)), (RESAMPLES, len(gains)), generator=torch.Generator().manual_seed(0))
    return float((gains[drawn].sum(dim=1) + certain <= 0).double().mean())


def _loops(question: str, reply: Reply) -> bool:
    return loops(reply[1])


def kind_of(example: Example) -> str:
    """Return what an example teaches, as a letter of `Scores.kinds`; the patterns are English ones."""
    if example.weight < 1.0:
        return LIKED
    question = example.messages[asked_at(example.messages)]["content"]
    return ABOUT_YOU if subject_of(question).heads or is_about_speaker(question) else OTHERS


def _right_tokens(losses: Tensor, rows: Sequence[Encoded]) -> Tensor:
    """Return how many tokens of each of `rows`, shortest first, are right, (N,) float64."""
    replies = torch.split(losses < RIGHT, [len(row.reply) for row in by_length(rows)])
    return torch.stack([reply.double().sum() for reply in replies])


def _marks(found: Iterable[bool]) -> str:
    return "".join("1" if one else "0" for one in found)
