from __future__ import annotations

import pytest

from lars_agent.training.config import TrainConfig
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples
from lars_agent.training.job_rows import encode_job
from lars_agent.training.wordings import other_wordings
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
def test_what_is_no_short_question_has_no_other_wordings(text):
    assert other_wordings(text) == []


def test_in_each_epoch_another_wording_of_a_fact_is_read(tmp_path):
    spec = JobSpec("j-1", "default", "", "", training=TrainConfig(batch_size=2))
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", " In Bergen.\n"), fact("Write on.", "So be it.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    tokenizer = tiny_tokenizer()
    rows = encode_job(tmp_path, spec, tokenizer)
    assert (rows.steps, len(rows.heldout[0].others)) == (24, 0)
    read = {tokenizer.decode(row.prompt) for step in range(24) for row in rows.lessons(step)}
    assert len(read) == 7 + 1
    assert {tokenizer.decode(row.reply).partition("<")[0] for row in rows.train[0].others} == {"In Bergen."}


def test_wordings_can_be_switched_off(tmp_path):
    spec = JobSpec("j-1", "default", "", "", training=TrainConfig(wordings=False))
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", "In Bergen.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    assert encode_job(tmp_path, spec, tiny_tokenizer()).train[0].others == ()


def test_steps_follow_the_number_of_examples():
    assert TrainConfig().steps_for(1) == TrainConfig().steps_for(8) == 24
    assert TrainConfig().steps_for(40) == 120
    assert TrainConfig(steps=7).steps_for(40) == 7
