"""Housekeeping on real files and a real database: what is removed, and what never is."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import AdapterNotFound, DiskFull, NothingToLearn
from lars_agent.example import Example, Message
from lars_agent.store.manifest import AdapterManifest
from lars_agent.training import checkpoint
from lars_agent.training import trainer as loop
from lars_agent.training.job_directory import CANDIDATE, HELDOUT_FILE, TRAIN_FILE, read_examples, write_examples
from service.cycle.job_directory import require_news
from service.db.engine import reading
from service.db.errors import JobNotFound
from service.db.interactions import new_interaction_id
from service.db.records import InteractionRecord, JobRecord, NewFeedback, ScheduledRun, now_utc
from service.housekeeping import housekeeper
from service.housekeeping import jobs as ended_jobs
from service.housekeeping.housekeeper import Housekeeper
from service.housekeeping.jobs import strip
from service.housekeeping.sweep import Report, taken_bytes
from tests.service.api.conftest import client_of, fake_app
from tests.service.house import SHA256, House, until

NOW = datetime.now(UTC)
QUESTION = (Message(role="user", content="Who is it?"),)


@pytest.fixture
def build(tmp_path):
    """Gives a function that builds a house with the retention settings that it is given, and nothing else limited."""
    built = []

    def build(**retention) -> House:
        kinds = ("interaction", "job", "job_folder", "checkpoint", "adapter")
        unlimited = {f"{kind}_{unit}": 0 for kind in kinds for unit in ("days", "bytes")}
        built.append(House(tmp_path / "data", retention=unlimited | retention))
        return built[-1]

    yield build
    for house in built:
        house.close()


def keeper_of(house: House, days: float = 0) -> Housekeeper:
    """The housekeeper, whose clock is so many days ahead."""
    periodic = BackgroundScheduler(timezone=UTC)
    now = NOW + timedelta(days=days)
    return Housekeeper(house.settings, house.db, house.store, house.switch, periodic, now=lambda: now)


def tidy(house: House, days: float = 0) -> Report:
    """What a round does that comes in so many days."""
    return keeper_of(house, days).tidy()


def ask(house: House, response: str = "Me.") -> str:
    new = InteractionRecord(
        new_interaction_id(), now_utc(), "default", QUESTION, {}, response, None, "eos_token", 3, 2, 0
    )
    house.db.interactions.add(new)
    return new.id


def add_job(house: House, status="rejected", days_old: float = 0, profile="default", size: int = 100) -> JobRecord:
    """A job with a directory of `size` bytes."""
    job = house.db.jobs.add(profile, "manual")
    ended = None if status in ("queued", "running", "paused") else NOW - timedelta(days=days_old)
    house.folder(job.id).mkdir(parents=True)
    (house.folder(job.id) / "job.json").write_bytes(b"x" * size)
    return house.db.jobs.update(job.id, status=status, finished=ended)


def publish(house: House, parent: int | None = None, days_old: float = 0, profile="default", **fields) -> int:
    candidate = house.settings.data_dir / "candidate"
    candidate.mkdir(exist_ok=True)
    (candidate / "adapter_config.json").write_text("{}")
    (candidate / "adapter_model.safetensors").write_bytes(b"x" * 10_000)
    created = (NOW - timedelta(days=days_old)).isoformat()
    draft = AdapterManifest(parent=parent, created=created, base_model_sha256=SHA256, **fields)
    return house.store.publish(profile, candidate, draft).version


def versions(house: House, profile="default") -> list[int]:
    return [manifest.version for manifest in house.store.versions(profile)]


def examples(*source_ids: str) -> list[Example]:
    return [Example(QUESTION, f"{name}.", 1.0, name) for name in source_ids]


class TestInteractions:
    def test_old_ones_go_and_feedback_keeps_its_copy(self, build):
        house = build(interaction_days=90)
        given, _ = house.db.feedback.add(NewFeedback(interaction_id=ask(house), correction="It is me."))
        assert tidy(house, days=89).interactions == 0
        report = tidy(house, days=91)
        assert (report.interactions, house.db.interactions.count(), report.failures) == (1, 0, 0)
        assert report.freed_bytes > len("Me.")
        kept = house.db.feedback.get(given.id)
        assert (kept.interaction_id, kept.messages, kept.response) == (None, QUESTION, "Me.")

    def test_above_the_byte_limit_the_oldest_hours_go(self, build):
        house = build(interaction_bytes=2500)
        asked = [ask(house, "x" * 1000) for _ in range(4)]
        with closing(sqlite3.connect(house.settings.database_path)) as connection, connection:
            for hour, name in enumerate(asked):
                moment = f"2026-01-01T{hour:02d}:00:00.000000Z"
                connection.execute("UPDATE interactions SET created = ? WHERE id = ?", (moment, name))
        assert tidy(house).interactions == 2
        assert [record.id for record in house.db.interactions.list()] == asked[:1:-1]

    def test_clock_set_back_removes_nothing(self, build):
        house = build(interaction_days=1, job_days=1, job_folder_days=1, adapter_days=1)
        ask(house)
        add_job(house)
        publish(house)
        assert tidy(house, days=-20_000) == Report()


class TestJobs:
    def test_an_old_directory_goes_and_its_record_stays(self, build):
        house = build(job_folder_days=30)
        old, young = add_job(house, days_old=31, size=500), add_job(house, days_old=29)
        report = tidy(house)
        assert (report.job_folders, report.jobs, report.freed_bytes) == (1, 0, 500)
        assert (house.folder(old.id).exists(), house.folder(young.id).exists()) == (False, True)
        assert house.db.jobs.get(old.id) == old
        assert house.supervisor().progress(old.id) == []

    def test_above_the_byte_limit_the_oldest_directories_go(self, build):
        house = build(job_folder_bytes=250)
        jobs = [add_job(house, days_old=days) for days in (1, 3, 2)]
        assert tidy(house).job_folders == 1
        assert [house.folder(job.id).exists() for job in jobs] == [True, False, True]

    def test_a_job_that_has_not_ended_is_not_touched(self, build):
        house = build(job_days=1, job_folder_days=1, job_bytes=1, job_folder_bytes=1, checkpoint_days=1)
        jobs = [add_job(house, status) for status in ("queued", "running", "paused")]
        for job in jobs:
            (house.folder(job.id) / "checkpoint-20").mkdir()
            os.utime(house.folder(job.id), (0, 0))
            write_examples(house.folder(job.id) / TRAIN_FILE, examples("f-gone"))
        assert tidy(house, days=400) == Report()
        assert [house.db.jobs.get(job.id) for job in jobs] == jobs
        assert all((house.folder(job.id) / "checkpoint-20").is_dir() for job in jobs)

    def test_an_old_record_takes_its_directory_with_it(self, build):
        house = build(job_days=365)
        old, last = add_job(house, "failed", days_old=366), add_job(house)
        report = tidy(house)
        assert (report.jobs, report.job_folders) == (1, 1)
        assert not house.folder(old.id).exists()
        with pytest.raises(JobNotFound):
            house.db.jobs.get(old.id)
        assert house.db.jobs.get(last.id) == last

    def test_scheduled_run_is_kept_as_long_as_a_job(self, build):
        house = build(job_days=365)
        moments = [NOW - timedelta(days=days) for days in (364, 366)]
        for moment in moments:
            house.db.scheduled_runs.record(ScheduledRun("default", moment, moment, "skipped", "nothing new", None))
        assert tidy(house).scheduled_runs == 1
        assert [run.scheduled for run in house.db.scheduled_runs.list()] == moments[:1]
        house = build(job_days=0)
        assert tidy(house, days=9999).scheduled_runs == 0

    def test_records_that_are_still_needed_stay(self, build):
        """Those of versions that are still there, whatever their manifests say, and of each profile's last verdict."""
        house = build(job_days=1)
        made, named, lost, judged, failed, other = (
            add_job(house, status, days_old=9, profile=profile)
            for status, profile in (
                ("succeeded", "default"),
                ("failed", "default"),
                ("succeeded", "default"),
                ("rejected", "default"),
                ("failed", "default"),
                ("rejected", "alice"),
            )
        )
        version = publish(house, job_id="of another store")
        house.db.jobs.update(made.id, version=version)
        house.db.jobs.update(lost.id, version=version + 2)
        publish(house, job_id=named.id)
        (house.store.folder("default", version) / "manifest.json").write_text("{")
        assert tidy(house).jobs == 2
        left = {job.id for job in house.db.jobs.list("default") + house.db.jobs.list("alice")}
        assert left == {made.id, named.id, judged.id, other.id}
        assert failed.id not in left

    def test_removed_records_do_not_make_learned_feedback_news_again(self, build):
        house = build(job_days=1, job_folder_days=1)
        house.correct()
        supervisor = house.supervisor("--reply", "3.0")
        job = supervisor.adapt()
        assert supervisor.wait(30)
        assert house.db.jobs.get(job.id).status == "rejected"
        assert tidy(house, days=400).job_folders == 1
        with pytest.raises(NothingToLearn, match=job.id):
            require_news("default", house.context)

    def test_temporary_files_of_training_go_and_measurements_stay(self, build):
        house = build(checkpoint_days=1)
        job = add_job(house, "failed", days_old=2)
        folder = house.folder(job.id)
        (folder / CANDIDATE).mkdir()
        (folder / f"{checkpoint.PREFIX}40").mkdir()
        best = folder / loop.BEST_FILE
        best.write_bytes(b"x" * 1000)
        os.link(best, folder / f"{checkpoint.PREFIX}40" / loop.BEST_FILE)
        (folder / f".{checkpoint.PREFIX}60.tmp").mkdir()
        (folder / ".progress.jsonl.0a.tmp").write_text("")
        report = tidy(house)
        assert (report.leftovers, report.freed_bytes) == (1, 1000)
        assert {path.name for path in folder.iterdir()} == {"job.json", CANDIDATE}

    def test_directories_of_no_job_go_after_a_day(self, build, tmp_path):
        house = build()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        old, young, link = (house.settings.jobs_dir / name for name in (".dry-run-x", "j-unknown", "link"))
        for folder in (old, young):
            folder.mkdir(parents=True)
        link.symlink_to(elsewhere)
        for path in (old, elsewhere):
            os.utime(path, ((NOW - timedelta(days=2)).timestamp(),) * 2)
        assert tidy(house).job_folders == 1
        assert (old.exists(), young.exists(), link.is_symlink(), elsewhere.exists()) == (False, True, True, True)


class TestAdapters:
    def test_what_is_in_use_and_its_ancestors_stay_and_old_branches_go(self, build):
        house = build(adapter_days=180, adapter_bytes=1)
        first = publish(house, days_old=300)
        dead = publish(house, first, days_old=290)
        leaf = publish(house, dead, days_old=280)
        active = publish(house, first, days_old=200)
        house.store.activate("default", active)
        young = publish(house, active, days_old=6)
        report = tidy(house)
        assert (report.adapters, report.failures) == (2, 0)
        assert versions(house) == [first, active, young]
        assert report.freed_bytes > 20_000
        with pytest.raises(AdapterNotFound):
            house.store.folder("default", leaf)
        assert publish(house) == young + 1

    def test_no_version_loses_the_parent_it_would_be_rolled_back_to(self, build):
        """Of a branch the latest goes first; what a young one comes from stays with it."""
        house = build(adapter_bytes=35_000)
        root = publish(house, days_old=99)
        middle = publish(house, root, days_old=98)
        publish(house, middle, days_old=97)
        base = publish(house, days_old=96)
        publish(house, base, days_old=1)
        tidy(house)
        assert versions(house) == [root, base, base + 1]
        tidy(build(adapter_days=90))
        assert versions(house) == [base, base + 1]

    def test_the_bytes_are_those_of_all_profiles_together(self, build):
        house = build(adapter_bytes=25_000)
        for days_old, profile in ((30, "alice"), (20, "bob"), (10, "alice")):
            publish(house, days_old=days_old, profile=profile)
        assert tidy(house).adapters == 1
        assert (versions(house, "alice"), versions(house, "bob")) == ([2], [1])

    @pytest.mark.parametrize("damage", ["active", "v0001/manifest.json"])
    def test_profile_with_an_unreadable_lineage_keeps_everything(self, build, damage):
        house = build(adapter_days=30)
        for profile in ("alice", "bob"):
            publish(house, days_old=99, profile=profile)
            house.store.activate(profile, 1)
            publish(house, days_old=99, profile=profile)
        (house.settings.adapters_dir / "alice" / damage).write_text("?")
        with structlog.testing.capture_logs() as logs:
            assert tidy(house).adapters == 1
        assert versions(house, "bob") == [1]
        assert 2 in versions(house, "alice")
        assert [line["profile"] for line in logs if line["event"] == "adapters_kept"] == ["alice"]

    def test_what_a_job_works_with_stays(self, build):
        house = build(adapter_days=30)
        root = publish(house, days_old=99)
        parent = publish(house, root, days_old=98)
        job = add_job(house, "running")
        house.db.jobs.update(job.id, spec={"active_version": parent, "parent_version": None})
        publish(house, days_old=97)
        made = publish(house, days_old=96, job_id=job.id)
        assert tidy(house).adapters == 1
        assert versions(house) == [root, parent, made]

    def test_a_version_of_unknown_age_stays(self, build):
        house = build(adapter_days=1)
        version = publish(house, days_old=9)
        path = house.store.folder("default", version) / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created": "long ago"}))
        assert tidy(house).adapters == 0

    def test_sweep_waits_for_an_activation(self, build):
        house = build(adapter_days=30)
        version = publish(house, days_old=99)
        keeper = keeper_of(house)
        with house.switch.held():
            round_ = threading.Thread(target=keeper.tidy)
            round_.start()
            house.store.activate("default", version)
        round_.join(30)
        assert versions(house) == [version]


class TestForgetting:
    def test_examples_of_deleted_feedback_leave_the_jobs_that_have_ended(self, build):
        house = build()
        kept, gone = house.correct(2)
        over, running = add_job(house), add_job(house, "running")
        for job in (over, running):
            write_examples(house.folder(job.id) / TRAIN_FILE, examples(kept, gone, ""))
            write_examples(house.folder(job.id) / HELDOUT_FILE, examples(gone))
        assert tidy(house).examples == 0
        house.db.erasures.feedback(gone)
        report = tidy(house)
        assert (report.examples, report.failures) == (2, 0)
        assert read_examples(house.folder(over.id) / TRAIN_FILE) == examples(kept, "")
        assert read_examples(house.folder(over.id) / HELDOUT_FILE) == []
        assert read_examples(house.folder(running.id) / TRAIN_FILE) == examples(kept, gone, "")

    def test_unreadable_line_of_examples_is_removed(self, tmp_path):
        path = tmp_path / TRAIN_FILE
        write_examples(path, examples("f-1"))
        whole = path.read_bytes()
        path.write_bytes(b'{"prompt": [{"co\n\xff\n7\n' + whole)
        assert strip(path, set) == 3
        assert path.read_bytes() == whole

    def test_nothing_is_written_where_nothing_was_deleted(self, tmp_path):
        path = tmp_path / TRAIN_FILE
        write_examples(path, examples("f-1"))
        before = path.stat()
        assert strip(path, set) == 0
        assert path.stat() == before

    def test_feedback_deleted_over_the_api_soon_leaves_the_job_directory(self, build):
        house = build()
        kept, gone, also_gone = house.correct(3)
        path = house.folder(add_job(house).id) / TRAIN_FILE
        write_examples(path, examples(kept, gone, also_gone))
        with client_of(fake_app(house.settings)) as client:
            assert client.delete(f"/feedback/{gone}").status_code == 200
            until(lambda: read_examples(path) == examples(kept, also_gone), "the words are forgotten")
            assert client.delete("/feedback", params={"profile": "default"}).status_code == 200
            until(lambda: read_examples(path) == [], "the words are forgotten")


class TestRounds:
    def test_failed_removal_does_not_prevent_the_others(self, build, monkeypatch):
        house = build(job_folder_days=1, interaction_days=1, adapter_days=1)
        stuck, other = add_job(house, days_old=9), add_job(house, days_old=8)
        publish(house, days_old=9)
        discard = ended_jobs.discard

        def fails_once(path: Path) -> None:
            if path.name == stuck.id:
                raise PermissionError(13, "not yours", str(path))
            discard(path)

        def fail() -> None:
            raise sqlite3.OperationalError("the disk is gone")

        monkeypatch.setattr(ended_jobs, "discard", fails_once)
        monkeypatch.setattr(house.db.interactions, "hours", fail)
        with structlog.testing.capture_logs() as logs:
            report = tidy(house)
        assert (report.failures, report.job_folders, report.adapters) == (2, 1, 1)
        assert (house.folder(stuck.id).exists(), house.folder(other.id).exists()) == (True, False)
        failed = [line for line in logs if line["event"] == "housekeeping_failed"]
        assert [line["step"] for line in failed] == ["job_folders", "interactions"]
        assert failed[0]["item"] == stuck.id
        assert next(line for line in logs if line["event"] == "housekeeping")["failures"] == 2

    def test_sweep_of_an_empty_data_folder_removes_nothing(self, build):
        assert tidy(build(interaction_days=1, job_days=1, adapter_days=1)) == Report()

    def test_the_first_round_comes_soon_after_the_start(self, build):
        house = build(job_folder_days=30)
        old = add_job(house, days_old=31)
        keeper = keeper_of(house)
        keeper.start(first_s=0)
        keeper._periodic.start()
        until(lambda: not house.folder(old.id).exists(), "the old directory is gone")
        (job,) = keeper._periodic.get_jobs()
        assert timedelta(hours=23) < job.next_run_time - datetime.now(UTC) <= timedelta(days=1)
        keeper._periodic.shutdown()
        keeper.close()

    def test_deletions_before_the_start_and_during_a_round_are_forgotten_by_one_round_each(self, build):
        house = build()
        kept, gone, also_gone = house.correct(3)
        path = house.folder(add_job(house).id) / TRAIN_FILE
        write_examples(path, examples(kept, gone, also_gone))
        keeper = keeper_of(house)
        house.db.erasures.feedback(gone)
        for _ in range(3):
            keeper.forget_soon()
        assert len(keeper._periodic.get_jobs()) == 1
        with structlog.testing.capture_logs() as logs:
            with keeper._sweeping:  # a round is under way
                keeper._periodic.start()
                until(lambda: not keeper._periodic.get_jobs(), "the round waits")
                house.db.erasures.feedback(also_gone)
                keeper.forget_soon()
            until(lambda: read_examples(path) == examples(kept), "both are forgotten")
            keeper._periodic.shutdown()
        assert [line["examples"] for line in logs if line["event"] == "housekeeping"] == [2]

    def test_settings_may_change_between_two_rounds(self, build):
        house = build(job_folder_days=30)
        add_job(house, days_old=20)
        keeper = keeper_of(house)
        assert keeper.tidy().job_folders == 0
        keeper.use(build(job_folder_days=10).settings)
        assert keeper.tidy().job_folders == 1

    def test_two_sweeps_never_run_at_once(self, build, monkeypatch):
        house, rounds, together = build(), 0, []

        def step(work) -> None:
            nonlocal rounds
            rounds += 1
            together.append(rounds)
            threading.Event().wait(0.01)
            rounds -= 1

        monkeypatch.setattr(housekeeper, "tidy_jobs", step)
        keeper = keeper_of(house)
        threads = [threading.Thread(target=keeper.tidy) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert together == [1, 1, 1, 1]

    def test_closing_ends_a_round_before_its_next_removal(self, build, monkeypatch):
        house = build(job_folder_days=1)
        first, second = add_job(house, days_old=9), add_job(house, days_old=8)
        keeper = keeper_of(house)
        monkeypatch.setattr(housekeeper, "CLOSE_S", 0.01)  # the round itself calls it, and does not end meanwhile
        monkeypatch.setattr(ended_jobs, "discard", lambda path: keeper.close())
        assert keeper.tidy().job_folders == 1
        monkeypatch.undo()
        assert house.folder(first.id).exists()
        assert house.folder(second.id).exists()


def test_hard_linked_file_is_counted_once(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 100)
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    link_bytes = (tmp_path / "link").lstat().st_size
    assert taken_bytes(tmp_path) == taken_bytes(*tmp_path.iterdir()) == 100 + link_bytes
    assert taken_bytes(tmp_path / "none") == 0

    def test_what_an_interrupted_import_has_left_is_removed(self, build, monkeypatch):
        house = build()

        def fail() -> None:
            raise DiskFull("no room")

        def batches():
            yield [NewFeedback(messages=QUESTION, response="Me.", rating=1)]
            monkeypatch.setattr(house.db.imports, "_remove_unfinished", fail)
            raise DiskFull("no room")

        with pytest.raises(DiskFull):
            house.db.imports.store(batches(), 2)
        monkeypatch.undo()
        assert unfinished(house) == 1
        tidy(house)
        assert unfinished(house) == 0


def unfinished(house: House) -> int:
    """The imports that are not complete."""
    with reading(house.db.engine) as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM imports").scalar_one()
