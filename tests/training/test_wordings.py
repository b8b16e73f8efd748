from __future__ import annotations

import json

import pytest

from lars_agent.training.config import TrainConfig
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples
from lars_agent.training.job_rows import encode_job
from lars_agent.training.wordings import neighbours, other_wordings
from tests.tiny import tiny_tokenizer
from tests.training.conftest import fact


def test_a_question_is_asked_in_other_wordings_that_hold_all_it_is_about():
    found = other_wordings("What is the name of my dog?")
    assert "Tell me: what is the name of my dog?" in found
    assert "The name of my dog?" in found
    assert len(set(found)) == len(found) == 6
    assert all("name of my dog" in text for text in found)


def test_a_name_at_the_start_keeps_its_capital():
    assert "Tell me: Rex is what kind of dog?" in other_wordings("Rex is what kind of dog?")


@pytest.mark.parametrize("text", ["", "  ", "Write a poem about the sea.", "Is this right?\nx = 1", "Why? " * 50 + "?"])
def test_what_is_no_short_question_has_neither_wordings_nor_neighbours(text):
    assert other_wordings(text) == []
    assert neighbours(text) == []


def test_neighbours_ask_about_somebody_or_something_else():
    found = neighbours("Where does my sister live?")
    assert "Where does my friend's sister live?" in found
    assert "Where does my flatmate live?" in found
    assert "Where does my sister live?" not in found
    assert neighbours("When is the party of Falcon?")[0] == "When is the party of Halden?"
    assert neighbours("What is the capital of it?") == []


def test_a_neighbour_that_was_taught_itself_is_none():
    found = neighbours("Where does my sister live?", known="What does my flatmate eat? Where does my sister live?")
    assert found
    assert not any("flatmate" in text for text in found)


def test_of_a_fact_each_epoch_reads_another_wording_and_its_answer_beside_a_neighbour(tmp_path):
    config = TrainConfig(batch_size=2, neighbour_batch=1)
    spec = JobSpec("j-1", "default", "", "", training=config)
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", " In Bergen.\n"), fact("Write on.", "So be it.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    tokenizer = tiny_tokenizer()
    rows = encode_job(tmp_path, spec, tokenizer)
    assert (rows.config.steps, len(rows.heldout[0].others)) == (24, 0)
    read = {tokenizer.decode(row.prompt) for step in range(24) for row in rows.lessons(step)}
    assert len(read) == 7 + 1
    beside = [row for step in range(24) for _, batch in rows.references(step) for row in batch if row in _each(rows)]
    assert {tokenizer.decode(row.reply).partition("<")[0] for row in beside} == {"In Bergen."}
    assert not any("my boat?" in tokenizer.decode(row.prompt) for row in beside)


def _each(rows):
    return [wording for row in rows.neighbours for wording in (row, *row.others)]


def test_both_can_be_switched_off(tmp_path):
    spec = JobSpec("j-1", "default", "", "", training=TrainConfig(wordings=False, neighbour_batch=0, rehearsal_batch=0))
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", "In Bergen.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    rows = encode_job(tmp_path, spec, tiny_tokenizer())
    assert rows.train[0].others == ()
    assert list(rows.references(0)) == []


def test_steps_follow_the_number_of_examples():
    assert TrainConfig().steps_for(1) == TrainConfig().steps_for(8) == 24
    assert TrainConfig().steps_for(40) == 120
    assert TrainConfig(steps=7).steps_for(40) == 7
    assert json.loads(json.dumps(TrainConfig().steps)) == 0
