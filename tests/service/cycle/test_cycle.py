"""The cycle's steps, with the worker's results made in the same process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lars_agent.errors import AdapterCorrupt, BudgetTooSmall, JobCancelled, NothingToLearn, WorkerFailed
from lars_agent.training.gate import Scores
from lars_agent.training.job_directory import CANDIDATE, HELDOUT_FILE, TRAIN_FILE, JobResult, JobSpec, read_examples
from service.cycle.cycle import run_cycle
from service.cycle.job_directory import require_news
from service.serving.adapter_switch import SwapFailed
from tests.service.house import FakeModel, House

INCUMBENT = Scores(reply_loss=2.0, text_loss=3.0)


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data")
    yield house
    house.close()


def trained(reply_loss: float = 1.0, text_loss: float = 3.0) -> Callable[[Path], JobResult]:
    """A `train` that leaves a candidate with these losses."""

    def train(folder: Path) -> JobResult:
        (folder / CANDIDATE).mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / CANDIDATE / name).write_text(name)
        (folder / "checkpoint-5").mkdir(exist_ok=True)
        learned = tuple(example.source_id for example in read_examples(folder / TRAIN_FILE))
        losses = {"candidate": Scores(reply_loss, text_loss), "incumbent": INCUMBENT, "base": INCUMBENT}
        return JobResult("succeeded", **losses, steps=5, peak_bytes=7, learned=learned)

    return train


def never(folder: Path) -> JobResult:
    raise AssertionError("there was nothing to train")


def test_accepted_candidate_is_published_and_served(house):
    house.correct()
    job = house.db.jobs.add("default", "manual")
    verdict = run_cycle(job, house.context, trained())
    assert verdict.accepted
    assert house.store.active("default") == house.engine.serving("default") == 1
    row = house.db.jobs.get(job.id)
    assert (row.version, row.peak_bytes, row.verdict["accepted"]) == (1, 7, True)


def test_manifest_tells_where_the_adapter_comes_from(house):
    ids = house.correct()
    parent = house.publish()
    job = house.db.jobs.add("default", "manual")
    run_cycle(job, house.context, trained())
    manifest = house.store.get("default", parent + 1)
    learned = {example.source_id for example in read_examples(house.folder(job.id) / TRAIN_FILE)}
    assert (manifest.parent, manifest.job_id, manifest.base_model) == (parent, job.id, "tiny/random")
    assert set(manifest.example_ids) == learned < set(ids)
    assert manifest.config["rank"] == 16
    assert manifest.budget_bytes == house.settings.worker_bytes
    assert manifest.verdict["accepted"]
    assert house.store.parent("default") == parent


def test_job_goes_on_from_the_version_in_use_and_what_that_one_learned_counts_as_learned(house):
    house.correct()
    first = house.db.jobs.add("default", "manual")
    run_cycle(first, house.context, trained())
    learned = house.store.get("default", 1).example_ids
    spec = JobSpec.read(house.folder(first.id))
    assert (spec.parent, spec.start, spec.training.seed) == (None, None, 0)
    house.correct(6)  # of which four replace those
    second = house.db.jobs.add("default", "manual")
    run_cycle(second, house.context, trained(0.5))
    spec = JobSpec.read(house.folder(second.id))
    assert spec.start == spec.parent == str(house.store.folder("default", 1))
    assert spec.training.seed == 1
    trained_on = {example.source_id for example in read_examples(house.folder(second.id) / TRAIN_FILE)}
    assert trained_on.isdisjoint(learned)
    assert sorted(house.store.get("default", 2).example_ids) == sorted([*learned, *trained_on])


def test_candidate_that_inherited_what_is_deleted_meanwhile_is_not_published(house):
    house.correct()
    run_cycle(house.db.jobs.add("default", "manual"), house.context, trained())
    known = house.store.get("default", 1).example_ids[0]
    house.db.feedback.edit(known, correction=None, comment="no example any more")
    house.correct(6)
    job = house.db.jobs.add("default", "manual")

    def deleted_meanwhile(folder: Path) -> JobResult:
        result = trained(0.5)(folder)
        house.db.erasures.feedback(known)
        return result

    with pytest.raises(JobCancelled, match="deleted meanwhile"):
        run_cycle(job, house.context, deleted_meanwhile)
    assert len(house.store.versions("default")) == 1


def test_after_a_candidate_that_went_on_was_rejected_everything_is_learned_anew(house):
    house.correct()
    run_cycle(house.db.jobs.add("default", "manual"), house.context, trained())
    rejected = house.db.jobs.add("default", "manual")
    assert not run_cycle(rejected, house.context, trained(reply_loss=9.0)).accepted
    house.db.jobs.update(rejected.id, status="rejected")
    assert JobSpec.read(house.folder(rejected.id)).start is not None
    assert "learns everything anew" in require_news("default", house.context)
    anew = house.db.jobs.add("default", "schedule")
    run_cycle(anew, house.context, trained(reply_loss=9.0))
    house.db.jobs.update(anew.id, status="rejected")
    assert JobSpec.read(house.folder(anew.id)).start is None
    with pytest.raises(NothingToLearn, match="no feedback has come"):
        require_news("default", house.context)


def test_job_with_other_settings_of_the_adapter_or_without_warm_start_begins_anew(house):
    house.correct()
    run_cycle(house.db.jobs.add("default", "manual"), house.context, trained())
    lars, training = house.settings.lars, house.settings.training
    for section in ({"lars": replace(lars, rank=8)}, {"training": replace(training, warm_start=False)}):
        context = replace(house.context, settings=house.settings.model_copy(update=section))
        job = house.db.jobs.add("default", "manual")
        run_cycle(job, context, trained(reply_loss=9.0))
        spec = JobSpec.read(house.folder(job.id))
        assert (spec.parent, spec.start) == (str(house.store.folder("default", 1)), None)


def test_rejected_candidate_leaves_incumbent_active_and_stays_in_the_job_directory(house):
    house.correct()
    incumbent = house.publish()
    job = house.db.jobs.add("default", "manual")
    verdict = run_cycle(job, house.context, trained(reply_loss=1.99))
    assert not verdict.accepted
    assert house.store.active("default") == house.engine.serving("default") == incumbent
    assert len(house.store.versions("default")) == 1
    assert (house.folder(job.id) / CANDIDATE / "adapter_model.safetensors").exists()
    assert not list(house.folder(job.id).glob("checkpoint-*"))
    assert "held-out replies" in house.db.jobs.get(job.id).verdict["reasons"][0]


def test_job_directory_holds_what_the_worker_needs(house):
    house.correct(6)
    incumbent = house.publish()
    job = house.db.jobs.add("default", "manual")
    run_cycle(job, house.context, trained())
    folder = house.folder(job.id)
    spec = JobSpec.read(folder)
    assert spec.parent == str(house.store.folder("default", incumbent))
    assert spec.budget_bytes == house.settings.worker_bytes
    assert spec.training == house.settings.training.config
    train, heldout = read_examples(folder / TRAIN_FILE), read_examples(folder / HELDOUT_FILE)
    assert len(train) + len(heldout) == 6
    assert heldout
    row = house.db.jobs.get(job.id).spec
    assert (row["train"], row["heldout"], row["active_version"]) == (len(train), len(heldout), incumbent)
    assert house.settings.jobs_dir.stat().st_mode & 0o077 == 0


def test_without_feedback_there_is_nothing_to_learn_and_no_worker(house):
    job = house.db.jobs.add("default", "manual")
    with pytest.raises(NothingToLearn):
        run_cycle(job, house.context, never)
    assert not house.folder(job.id).exists()


def test_profiles_do_not_mix(house):
    house.correct(4, "default")
    ids = house.correct(4, "alice")
    run_cycle(house.db.jobs.add("alice", "manual"), house.context, trained())
    assert house.store.active("alice") == 1
    assert house.store.active("default") is None
    assert set(house.store.get("alice", 1).example_ids) < set(ids)


def test_failed_swap_puts_the_incumbent_back(house):
    house.correct()
    incumbent = house.publish()
    house.engine.failing = True
    job = house.db.jobs.add("default", "manual")
    with pytest.raises(SwapFailed, match=r"v2 .* another shape.* v1 is in use as before"):
        run_cycle(job, house.context, trained())
    assert house.store.active("default") == house.engine.serving("default") == incumbent
    assert house.db.jobs.get(job.id).version == 2


def test_failed_first_swap_puts_the_base_model_back(house):
    house.correct()
    house.engine.failing = True
    with pytest.raises(SwapFailed, match="the base model is in use as before"):
        run_cycle(house.db.jobs.add("default", "manual"), house.context, trained())
    assert house.store.active("default") is None


@pytest.mark.parametrize(("damaged", "left"), [([2], 1), ([1, 2], None)])
def test_failed_swap_over_a_damaged_incumbent_moves_pointer_and_engine_to_its_nearest_sound_ancestor(
    house, damaged, left
):
    house.correct()
    for _ in range(2):
        house.publish()

    def train(folder: Path) -> JobResult:
        house.engine.failing = True
        for version in damaged:
            (house.store.folder("default", version) / "adapter_model.safetensors").write_text("rotten")
        return trained()(folder)

    kept = "v1" if left else "the base model"
    with pytest.raises(SwapFailed, match=rf"v3 .* another shape.*; {kept} is in use because v2 is damaged"):
        run_cycle(house.db.jobs.add("default", "manual"), house.context, train)
    assert house.store.active("default") == house.engine.serving("default") == left
    assert [problem.code for problem in house.switch.problems] == ["adapter_fallback"] * len(damaged[:1])


def test_candidate_is_rejected_when_another_version_was_put_in_use_meanwhile(house):
    house.correct()
    house.publish()

    def train(folder: Path) -> JobResult:
        house.store.activate("default", None)
        return trained()(folder)

    verdict = run_cycle(house.db.jobs.add("default", "manual"), house.context, train)
    assert not verdict.accepted
    assert verdict.reasons == ("When the job began v1 was in use, but the base model has been put in use since.",)
    assert house.store.active("default") is None


@pytest.mark.parametrize("step", ["snapshot", "train", "publish", "prepare", "activate", "swap"])
def test_cycle_continues_after_a_crash_between_any_two_steps(house, step, monkeypatch):
    """Whatever step was reached, the same call ends with one more version, in use."""

    class Death(BaseException):
        pass

    def die(*args, **kwargs):
        raise Death

    house.correct()
    job = house.db.jobs.add("default", "manual")
    house.publish()
    points = {
        "snapshot": "service.cycle.job_directory.JobSpec.write",
        "publish": "lars_agent.store.adapters.AdapterStore.publish",
        "activate": "lars_agent.store.adapters.AdapterStore.move",
    }
    with monkeypatch.context() as patch:
        if step in points:
            patch.setattr(points[step], die)
        patch.setattr(house.engine, "prepare" if step == "prepare" else "swap", die)
        with pytest.raises(Death):
            run_cycle(job, house.context, die if step == "train" else trained())
    verdict = run_cycle(house.db.jobs.get(job.id), house.context, trained())
    assert verdict.accepted
    assert [manifest.version for manifest in house.store.versions("default")] == [1, 2]
    assert house.store.active("default") == house.engine.serving("default") == 2


def test_adapter_of_another_base_model_is_no_incumbent(house):
    house.correct()
    house.publish()
    house.model = FakeModel(sha256="b" * 64)
    job = house.db.jobs.add("default", "manual")
    run_cycle(job, house.context, trained())
    assert JobSpec.read(house.folder(job.id)).parent is None
    assert house.store.get("default", 2).parent is None
    assert house.store.active("default") == 2


def test_damaged_incumbent_stops_the_cycle_before_any_training(house):
    house.correct()
    house.publish()
    (house.store.folder("default", 1) / "adapter_model.safetensors").write_text("rotten")
    with pytest.raises(AdapterCorrupt, match="damaged"):
        run_cycle(house.db.jobs.add("default", "manual"), house.context, never)


def test_worker_error_keeps_its_type_and_message(house):
    house.correct()
    result = JobResult("failed", error="needs 3 bytes", error_type="BudgetTooSmall")
    with pytest.raises(BudgetTooSmall, match="needs 3 bytes"):
        run_cycle(house.db.jobs.add("default", "manual"), house.context, lambda folder: result)


def test_worker_error_of_unknown_type_is_a_worker_failure(house):
    house.correct()
    result = JobResult("failed", error="?", error_type="annotations")
    with pytest.raises(WorkerFailed):
        run_cycle(house.db.jobs.add("default", "manual"), house.context, lambda folder: result)


def test_candidate_without_its_files_is_not_published(house):
    house.correct()

    def train(folder: Path) -> JobResult:
        result = trained()(folder)
        shutil.rmtree(folder / CANDIDATE)
        return result

    with pytest.raises(AdapterCorrupt):
        run_cycle(house.db.jobs.add("default", "manual"), house.context, train)
    assert house.store.versions("default") == []


@pytest.mark.parametrize(("reply_loss", "status"), [(1.0, "succeeded"), (5.0, "rejected")])
def test_there_are_no_news_after_a_judged_job_until_feedback_comes(house, reply_loss, status):
    house.correct()
    require_news("default", house.context)
    job = house.db.jobs.add("default", "schedule")
    run_cycle(job, house.context, trained(reply_loss))
    house.db.jobs.update(job.id, status=status)
    with pytest.raises(NothingToLearn, match=f"no feedback has come since job {job.id}, which was {status}"):
        require_news("default", house.context)
    house.correct(1)
    require_news("default", house.context)


def test_failed_job_is_tried_again_on_the_same_feedback(house):
    house.correct()
    job = house.db.jobs.add("default", "schedule")
    run_cycle(job, house.context, trained())
    house.db.jobs.update(job.id, status="failed")
    require_news("default", house.context)


def test_a_version_put_in_use_after_the_verdict_stays_in_use(house):
    house.correct()
    mine, parent = house.publish(), house.publish()
    job = house.db.jobs.add("default", "manual")
    publish = house.store.publish

    def interrupted(*arguments):  # somebody activates another version while the candidate is being copied
        manifest = publish(*arguments)
        house.store.activate("default", mine)
        return manifest

    house.store.publish = interrupted
    with pytest.raises(SwapFailed, match=f"v{parent + 1} was published, but v{mine} has been put in use meanwhile"):
        run_cycle(job, house.context, trained())
    assert house.store.active("default") == mine
    assert [manifest.version for manifest in house.store.versions("default")] == [1, 2, 3]


def test_too_little_feedback_is_no_news(house):
    house.correct(1)
    with pytest.raises(NothingToLearn, match="two examples are needed"):
        require_news("default", house.context)
