"""The rows that a job reads."""

from __future__ import annotations

import pytest

from lars_agent.english.wordings import MOST
from lars_agent.errors import NothingToLearn
from lars_agent.training.batches import Encoded
from lars_agent.training.config import TrainConfig
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples
from lars_agent.training.job_rows import JobRows, encode_job
from lars_agent.training.trainer import Trainer
from tests.tiny import tiny_tokenizer
from tests.training.conftest import fact


def test_in_each_epoch_another_wording_of_a_fact_is_read(tmp_path):
    spec = JobSpec("j-1", "default", "", "", training=TrainConfig(batch_size=2))
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", " In Bergen.\n"), fact("Write on.", "So be it.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    tokenizer = tiny_tokenizer()
    rows = encode_job(tmp_path, spec, tokenizer)
    assert (rows.steps(), len(rows.heldout[0].others)) == (24, 0)
    read = {tokenizer.decode(row.prompt) for step in range(24) for _, row in rows.lessons(step)}
    assert len(read) == 1 + MOST + 1
    assert {tokenizer.decode(row.reply).partition("<")[0] for row in rows.train[0].others} == {"In Bergen."}


def test_wordings_can_be_switched_off(tmp_path):
    spec = JobSpec("j-1", "default", "", "", training=TrainConfig(wordings=False))
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", "In Bergen.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    assert encode_job(tmp_path, spec, tiny_tokenizer()).train[0].others == ()


def test_a_job_of_which_nothing_is_left_says_why(tmp_path):
    spec = JobSpec("j-1", "default", "", "")
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", "In Bergen."), fact("And my hat?", "Here.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my cat?", "There.")])
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    rows = encode_job(tmp_path, spec, tokenizer)
    assert (len(rows.train), len(rows.heldout), len(rows.skipped)) == (0, 0, 3)
    with pytest.raises(NothingToLearn, match=r"0 examples .* 3 were left out, .*<think>"):
        Trainer(None, None, rows, 0)


def test_steps_follow_the_number_of_examples():
    assert TrainConfig().steps_for(1) == TrainConfig().steps_for(8) == 24
    assert TrainConfig().steps_for(40) == 120
    assert TrainConfig(steps=7).steps_for(40) == 7


def test_newest_and_some_earlier_replies_are_scored():
    def rows(count: int) -> list[str]:
        train = [Encoded((0,), (1,), 1.0, str(number)) for number in range(count)]
        return [row.source_id for row in JobRows(TrainConfig(), train, ()).scored]

    assert rows(3) == ["0", "1", "2"]
    assert rows(64) == [str(number) for number in range(64)]
    chosen = rows(1000)
    assert (len(chosen), len(set(chosen)), chosen[0], chosen[-32:]) == (64, 64, "0", [str(n) for n in range(968, 1000)])


def test_all_examples_are_read_alike_in_wordings_that_another_seed_begins_elsewhere():
    others = tuple(Encoded((9,), (1,), 1.0, f"other {number}") for number in range(3))
    train = [Encoded((0,), (1,), 1.0, str(number), others) for number in range(20)]
    rows = JobRows(TrainConfig(batch_size=4, seed=2), train, ())
    assert [rows.steps(), rows.steps(3), rows.steps(15)] == [120, 36, 120]
    read = [lesson for step in range(5) for lesson in rows.lessons(step)]
    assert sorted(index for index, _ in read) == list(range(20))
    assert {row.source_id for _, row in read} == {"other 1"}  # the third of its wordings


def test_what_is_unknown_is_read_besides_what_is_read_in_turn():
    train = [Encoded((0,), (1,), 1.0, str(number)) for number in range(20)]
    rows = JobRows(TrainConfig(batch_size=4), train, ())
    read = [[index for index, _ in rows.lessons(step, [3, 7, 11])] for step in range(10)]
    assert all(len(step) == len(set(step)) == 4 for step in read[:1])
    assert sum(index in (3, 7, 11) for step in read for index in step) >= 20
    assert {index for step in read for index in step} == set(range(20))  # each in turn, two a step
    assert rows.turn == 10
    assert [len(rows.lessons(step, [])) for step in range(3)] == [2, 2, 2]  # nothing is unknown: a step reads less
    assert [len(rows.lessons(step, range(20))) for step in range(3)] == [4, 4, 4]
    last = [[index for index, _ in rows.lessons(step, [3, 7, 11], in_cooldown=True)] for step in range(5)]
    assert {index for step in last for index in step} == set(range(20))
    assert all(4 <= len(step) <= 6 for step in last)
    assert read == [[index for index, _ in rows.lessons(step, [3, 7, 11])] for step in range(10)]
    assert [index for index, _ in JobRows(TrainConfig(batch_size=1), train, ()).lessons(0, [3])].count(3) == 1


def test_last_steps_of_training_that_goes_on_read_every_example_once():
    train = [Encoded((0,), (1,), 1.0, str(number)) for number in range(50)]
    rows = JobRows(TrainConfig(batch_size=4), train, (), is_continued=True)
    assert rows.cooldown == 13
    assert {index for step in range(13) for index, _ in rows.lessons(step)} == set(range(50))
    assert JobRows(TrainConfig(batch_size=4), train, ()).cooldown == TrainConfig().cooldown_steps
