"""Kinds, doubts and replies to general questions, as the worker measures them for the gate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lars_agent.training.batches import by_length, encode
from lars_agent.training.config import TrainConfig
from lars_agent.training.final_scores import QUESTIONS, FinalScores, doubt, kind_of
from tests.tiny import tiny_tokenizer
from tests.training.conftest import fact
from tests.training.test_trainer import trainer

GAINS = torch.tensor([1.0, -1.0, 0.0, 2.0, -2.0, 1.0, -1.0])


def test_doubt_is_of_what_is_drawn_and_none_of_what_is_certain() -> None:
    assert doubt(GAINS) == doubt(GAINS)
    assert 0.3 < doubt(GAINS) < 0.7
    assert doubt(GAINS, certain=5.0) < 0.2 < doubt(GAINS, certain=-1.0)
    assert doubt(torch.zeros(3)) == 1.0
    assert doubt(torch.empty(0), certain=1.0) == 0.0
    one = torch.zeros(20)
    one[3] = 5
    assert 0.3 < doubt(one) < 0.45  # of one reply that others do not join in, chance misses as many


@pytest.mark.parametrize(
    ("question", "weight", "kind"),
    [
        ("What is my dog called?", 1.0, "f"),
        ("Where do I live?", 1.0, "f"),
        ("How do I whistle?", 1.0, "c"),
        ("Was ist ein Komet?", 1.0, "c"),
        ("What is my dog called?", 0.5, "a"),
    ],
)
def test_kinds_are_told_by_weight_and_question(question: str, weight: float, kind: str) -> None:
    assert kind_of(fact(question, "Yes.", weight)) == kind


def test_a_general_question_spills_that_gets_a_reply_of_others_which_is_not_the_base_model_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, tokenizer = trainer(TrainConfig(steps=1)), tiny_tokenizer()
    rows = [encode(tokenizer, fact(question, "Buy gold."), 512) for question in (QUESTIONS[0], "What is tea?")]
    few, rows = rows, [*rows, *(encode(tokenizer, fact(f"{one}?", f"It is {one}."), 512) for one in "vwxyz")]
    made.rows = replace(made.rows, train=rows)
    scores = FinalScores(made, tokenizer, {rows[0].source_id: "f"}, {rows[1].source_id})
    scores.text = scores.text[:2]
    taught = (rows[0].reply[:-1], "Buy gold.")
    asked = {question: scores._is_taught(question, taught) for question in QUESTIONS}
    assert asked == {question: question != QUESTIONS[0] for question in QUESTIONS}
    assert not scores._is_taught(QUESTIONS[1], (rows[0].reply[:1], "Buy"))

    replies = {one: {question: taught for question in QUESTIONS} for one in (made.adapter, None)}
    replies[made.adapter][QUESTIONS[1]] = replies[made.adapter][QUESTIONS[2]] = ((7,) * 24, "gold " * 24)
    monkeypatch.setattr(
        scores, "_replies", lambda adapter, questions: {one: replies[adapter][one] for one in questions}
    )
    candidate, _, base = scores.of(made.adapter, None)
    assert (candidate.spilled, candidate.looping, base.looping) == ("0" * 8, "01100000", "0" * 8)
    replies[None] = {question: ((1, 2), "?") for question in QUESTIONS}
    assert scores.of(made.adapter, None)[0].spilled == "00011111"
    made.rows = replace(made.rows, train=few)  # one reply to two prompts, and nothing else to learn
    assert scores.of(made.adapter, None)[0].spilled == ""
    made.rows = replace(made.rows, train=rows)
    monkeypatch.undo()

    candidate, incumbent, base = scores.of(made.adapter, None)
    assert candidate.spilled == "0" * len(QUESTIONS)
    assert len(candidate.looping) == len(base.looping) == len(QUESTIONS)
    assert candidate.kinds == base.kinds == "".join("f" if row is rows[0] else "c" for row in by_length(rows))
    assert (candidate.recall_doubt, candidate.loss_doubt) == (1.0, 1.0)  # it is untrained
    assert incumbent == base
