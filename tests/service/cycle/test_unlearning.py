"""Adapters trained on deleted feedback are replaced: with real files, a real database, a real process."""

from __future__ import annotations

import pytest

from lars_agent.errors import NothingToLearn
from lars_agent.training.job_directory import JobSpec
from service.serving.profiles import Profiles
from tests.service.house import House


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data")
    yield house
    house.close()


@pytest.fixture
def ids(house):
    return house.correct(6)


def ended(house: House, *flags: str, trigger: str = "schedule"):
    supervisor = house.supervisor(*flags)
    job = supervisor.adapt(trigger=trigger)
    assert supervisor.wait(30)
    return house.db.jobs.get(job.id)


def in_use(house: House) -> int | None:
    assert house.store.active("default") == house.engine.serving("default")
    return house.store.active("default")


def test_successor_is_judged_against_the_latest_version_that_knows_nothing_deleted_and_goes_back_to_it(house, ids):
    innocent = house.publish(learned=ids[:2])
    for learned in (ids[:3], ids[2:]):
        house.publish(learned=learned)
    house.db.feedback.delete(ids[2])
    job = ended(house)
    assert (job.status, in_use(house)) == ("succeeded", job.version)
    assert JobSpec.read(house.folder(job.id)).parent == str(house.store.folder("default", innocent))
    assert house.store.parent("default") == innocent


@pytest.mark.parametrize(("learned", "left"), [(slice(0, 2), 1), (slice(2, 4), None)])
def test_where_the_successor_is_rejected_that_version_is_in_use_and_the_record_says_so(house, ids, learned, left):
    house.publish(learned=ids[learned])
    house.publish(learned=ids)
    house.db.feedback.delete(ids[2])
    job = ended(house, "--reply", "9.0")
    assert (job.status, in_use(house)) == ("rejected", left)
    kept = "v1" if left else "the base model"
    words = f"v2 was trained on feedback that has been deleted, so {kept} is in use instead."
    assert job.error.endswith(words)
    assert job.verdict["reasons"][-1] == words


def test_unaffected_adapter_stays_when_its_successor_is_rejected(house, ids):
    version = house.publish(learned=ids[:3])
    house.db.feedback.delete(ids[5])
    assert ended(house, "--reply", "9.0").status == "rejected"
    assert in_use(house) == version


def test_run_with_too_little_left_withdraws_the_adapter_and_the_next_run_reports_nothing(house, ids):
    house.publish(learned=ids)
    for feedback_id in ids:
        house.db.feedback.delete(feedback_id)
    supervisor = house.supervisor()
    with pytest.raises(NothingToLearn, match=r"v1 was trained on .* deleted, so the base model is in use"):
        supervisor.adapt(trigger="schedule")
    assert in_use(house) is None
    assert {job.trigger for job in house.db.jobs.list()} == {"manual"}  # the one that made v1
    with pytest.raises(NothingToLearn) as second:
        supervisor.adapt(trigger="schedule")
    assert "is in use instead" not in str(second.value)


def test_manual_job_withdraws_the_adapter_too(house, ids):
    house.publish(learned=ids)
    for feedback_id in ids:
        house.db.feedback.delete(feedback_id)
    job = ended(house, trigger="manual")
    assert job.status == "failed"
    assert "the base model is in use instead" in job.error
    assert in_use(house) is None


@pytest.mark.parametrize(
    ("damaged", "name", "left"),
    [(2, "adapter_model.safetensors", 1), (1, "manifest.json", 2), (2, "manifest.json", None)],
)
def test_damaged_ancestor_is_passed_over(house, ids, damaged, name, left):
    house.publish(learned=ids[:1])
    house.publish(learned=ids[:1])
    house.publish(learned=ids)
    house.db.feedback.delete(ids[2])
    (house.store.folder("default", damaged) / name).write_text("torn")
    assert ended(house, "--reply", "9.0").status == "rejected"
    assert in_use(house) == left


def test_adapter_is_withdrawn_when_the_worker_finds_nothing_to_learn(house, ids):
    house.publish(learned=ids)
    house.db.feedback.delete(ids[2])
    job = ended(house, "--error", "NothingToLearn")
    assert job.status == "failed"
    assert job.error.endswith("v1 was trained on feedback that has been deleted, so the base model is in use instead.")
    assert in_use(house) is None


def test_failed_run_changes_nothing(house, ids):
    version = house.publish(learned=ids)
    house.db.feedback.delete(ids[2])
    assert ended(house, "--error", "WorkerFailed").status == "failed"
    assert in_use(house) == version


def test_adapter_without_a_job_in_the_database_is_kept(house, ids):
    """It was moved away, or restored from an older backup."""
    version = house.publish(learned=ids)
    house.close()
    for path in house.settings.data_dir.glob("lars-agent.db*"):
        path.unlink()
    later = House(house.settings.data_dir)
    with pytest.raises(NothingToLearn) as error:
        later.supervisor().adapt(trigger="schedule")
    assert "deleted" not in str(error.value)
    assert later.store.active("default") == version
    later.close()


def test_profile_without_any_feedback_left_has_its_scheduled_run(house):
    profiles = Profiles(house.db, house.store).names
    ids = house.correct(2, "alice")
    house.publish("alice", learned=ids)
    for feedback_id in ids:
        house.db.feedback.delete(feedback_id)
    assert profiles() == ["alice", "default"]
    with pytest.raises(NothingToLearn, match="v1 was trained on feedback that has been deleted"):
        house.supervisor().adapt("alice", trigger="schedule")
    assert house.store.active("alice") is None
