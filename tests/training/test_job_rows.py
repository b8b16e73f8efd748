"""The rows that a job reads."""

from __future__ import annotations

from lars_agent.english.wordings import MOST
from lars_agent.training.batches import Encoded
from lars_agent.training.config import TrainConfig
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples
from lars_agent.training.job_rows import JobRows, encode_job
from tests.tiny import tiny_tokenizer
from tests.training.conftest import fact


def test_in_each_epoch_another_wording_of_a_fact_is_read(tmp_path):
    spec = JobSpec("j-1", "default", "", "", training=TrainConfig(batch_size=2))
    write_examples(tmp_path / TRAIN_FILE, [fact("Where is my boat?", " In Bergen.\n"), fact("Write on.", "So be it.")])
    write_examples(tmp_path / HELDOUT_FILE, [fact("Where is my hat?", "Here.")])
    tokenizer = tiny_tokenizer()
    rows = encode_job(tmp_path, spec, tokenizer)
    assert (rows.steps(), len(rows.heldout[0].others)) == (24, 0)
    read = {tokenizer.decode(row.prompt) for step in range(24) for row in rows.lessons(step)}
    assert len(read) == 1 + MOST + 1
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


def test_newest_and_some_earlier_replies_are_scored():
    def rows(count: int) -> list[str]:
        train = [Encoded((0,), (1,), 1.0, str(number)) for number in range(count)]
        return [row.source_id for row in JobRows(TrainConfig(), train, ()).scored]

    assert rows(3) == ["0", "1", "2"]
    assert rows(64) == [str(number) for number in range(64)]
    chosen = rows(1000)
    assert (len(chosen), len(set(chosen)), chosen[0], chosen[-32:]) == (64, 64, "0", [str(n) for n in range(968, 1000)])


def test_every_step_reads_as_much_of_the_rest_as_of_what_is_new_in_wordings_that_another_seed_begins_elsewhere():
    others = tuple(Encoded((9,), (1,), 1.0, f"other {number}") for number in range(3))
    train = [Encoded((0,), (1,), 1.0, str(number), others) for number in range(20)]
    rows = JobRows(TrainConfig(batch_size=4, seed=2), train, (), is_continued=True)
    assert rows.steps() == 120
    assert rows.steps([3, 7, 11]) == 36
    read = [[row.source_id for row in rows.lessons(step, [3, 7, 11])] for step in range(6)]
    assert all(len(step) == 4 for step in read)
    assert {name for step in read[:2] for name in step[2:]} == {"other 1"}  # the third of its wordings
    assert len({row.source_id for row in JobRows(TrainConfig(batch_size=1), train, ()).lessons(0, [3])}) == 2
    numbered = [Encoded((0,), (1,), 1.0, str(number)) for number in range(20)]
    plain = JobRows(TrainConfig(batch_size=4), numbered, ())
    new = [sum(row.source_id in ("3", "7", "11") for row in plain.lessons(step, [3, 7, 11])) for step in range(9)]
    assert new == [2] * 9
    assert len({row.source_id for step in range(9) for row in plain.lessons(step, [3, 7, 11])}) == 20


def test_last_steps_of_training_that_goes_on_read_every_example_once():
    train = [Encoded((0,), (1,), 1.0, str(number)) for number in range(50)]
    rows = JobRows(TrainConfig(batch_size=4), train, (), is_continued=True)
    assert rows.cooldown == 13
    read = [row.source_id for step in range(30, 43) for row in rows.lessons(step, [3, 7], known_step=30)]
    assert set(read) == {row.source_id for row in train}
    assert len(read) == 52
    assert len(set(rows.lessons(29, [3, 7], known_step=30)) & {train[3], train[7]}) == 2
    assert JobRows(TrainConfig(batch_size=4), train, ()).cooldown == TrainConfig().cooldown_steps
