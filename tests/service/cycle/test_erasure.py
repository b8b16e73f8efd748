"""Adapters trained on deleted feedback are deleted: with real files, a real database, a real process.

The rows alone are deleted here, as where the daemon died right after that.
"""

from __future__ import annotations

import pytest

from lars_agent.errors import NothingToLearn
from lars_agent.training.job_directory import JobSpec
from service.cycle.erasure import withdraw_forgotten
from service.serving.profiles import Profiles
from tests.service.house import House, until


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


def versions(house: House) -> dict[int, int | None]:
    return {manifest.version: manifest.parent for manifest in house.store.versions("default")}


def test_successor_is_judged_against_the_latest_version_that_knows_nothing_deleted_and_goes_back_to_it(house, ids):
    innocent = house.publish(learned=ids[:2])
    for learned in (ids[:3], ids[2:]):
        house.publish(learned=learned)
    house.db.erasures.feedback(ids[2])
    job = ended(house)
    assert (job.status, in_use(house)) == ("succeeded", job.version)
    assert JobSpec.read(house.folder(job.id)).parent == str(house.store.folder("default", innocent))
    assert versions(house) == {innocent: None, job.version: innocent}


def test_versions_in_between_are_deleted_and_those_behind_go_back_to_what_is_left(house, ids):
    for learned in (ids[:1], ids[:3], ids[2:3], ids[3:]):
        house.publish(learned=learned)
    house.db.erasures.feedback(ids[2])
    assert withdraw_forgotten("default", house.context) == [2, 3]
    assert (versions(house), in_use(house)) == ({1: None, 4: 1}, 4)
    assert house.store.problems("default") == {}
    assert house.publish(learned=ids[:1]) == 5


@pytest.mark.parametrize(("learned", "left"), [(slice(0, 2), 1), (slice(2, 4), None)])
@pytest.mark.parametrize("flags", [("--reply", "9.0"), ("--error", "NothingToLearn"), ("--error", "WorkerFailed")])
def test_what_knew_it_serves_no_more_however_its_successor_ends(house, ids, learned, left, flags):
    house.publish(learned=ids[learned])
    house.publish(learned=ids)
    house.db.erasures.feedback(ids[2])
    assert ended(house, *flags).status in ("rejected", "failed")
    assert in_use(house) == left
    assert set(versions(house)) == ({1} if left else set())


def test_unaffected_adapter_stays_when_its_successor_is_rejected(house, ids):
    version = house.publish(learned=ids[:3])
    house.db.erasures.feedback(ids[5])
    assert ended(house, "--reply", "9.0").status == "rejected"
    assert in_use(house) == version


@pytest.mark.parametrize(
    ("damaged", "name", "left"),
    [(2, "adapter_model.safetensors", 1), (1, "manifest.json", 2), (2, "manifest.json", None)],
)
def test_damaged_ancestor_is_passed_over(house, ids, damaged, name, left):
    house.publish(learned=ids[:1])
    house.publish(learned=ids[:1])
    house.publish(learned=ids)
    house.db.erasures.feedback(ids[2])
    (house.store.folder("default", damaged) / name).write_text("torn")
    assert withdraw_forgotten("default", house.context) == [3]
    assert in_use(house) == left


def test_a_candidate_that_was_prepared_before_the_deletion_is_not_published(house, ids, tmp_path):
    go = tmp_path / "go"
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    until(lambda: supervisor.progress(job.id), "the worker works")
    house.db.erasures.feedback(ids[0])
    go.touch()
    assert supervisor.wait(30)
    ending = house.db.jobs.get(job.id)
    assert (ending.status, ending.version, versions(house)) == ("cancelled", None, {})
    assert "has been deleted meanwhile" in ending.error


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
    assert withdraw_forgotten("default", later.context) == []
    assert later.store.active("default") == version
    later.close()


def test_profile_without_any_feedback_left_has_its_scheduled_run(house):
    profiles = Profiles(house.db, house.store).names
    ids = house.correct(2, "alice")
    house.publish("alice", learned=ids)
    for feedback_id in ids:
        house.db.erasures.feedback(feedback_id)
    assert profiles() == ["alice", "default"]
    assert withdraw_forgotten("alice", house.context) == [1]
    assert house.store.active("alice") is None
    with pytest.raises(NothingToLearn):
        house.supervisor().adapt("alice", trigger="schedule")
