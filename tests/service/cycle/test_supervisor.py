"""The supervisor with a worker that is a real process: exits, pauses and crashes, the daemon's included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lars_agent.errors import AdapterNotFound, ModelLoading, ModelNotFound, NothingToLearn, WorkerFailed
from lars_agent.example import Message
from lars_agent.training.gate import GatePolicy
from lars_agent.training.job_directory import CANDIDATE
from service.cycle.supervisor import MAX_TRIES, JobNotRunning, JobRunning
from service.db.errors import JobNotFound
from service.db.records import NewFeedback
from service.worker.process import LOG_NAME, PID_NAME, kill_stray
from tests.service.house import REPOSITORY, House, state_of, until


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data")
    house.correct()
    yield house
    house.close()


@pytest.fixture
def go(tmp_path):
    """The file that a waiting worker waits for."""
    return tmp_path / "go"


def ended(house, supervisor, job):
    """The job's row, once no job runs any more."""
    assert supervisor.wait(30)
    return house.db.jobs.get(job.id)


def at_work(supervisor, job) -> int:
    """The worker's process id, once it has made a step."""
    until(lambda: any(line["step"] > 0 for line in supervisor.progress(job.id)), "a step of the worker")
    assert supervisor._worker.pid is not None
    return supervisor._worker.pid


def tell(question: str, answer: str) -> NewFeedback:
    return NewFeedback(messages=(Message(role="user", content=question),), response="?", correction=answer)


def steps(supervisor, job) -> int:
    return supervisor.progress(job.id)[-1]["step"]


def test_accepted_job_succeeds_and_its_adapter_serves(house):
    supervisor = house.supervisor()
    job = supervisor.adapt()
    assert job.status == "queued"
    row = ended(house, supervisor, job)
    assert (row.status, row.version, row.error, row.attempts) == ("succeeded", 1, None, 1)
    assert row.started <= row.finished
    assert row.peak_bytes == 123_456
    assert house.engine.serving("default") == 1
    assert supervisor.current is supervisor._worker.pid is None


@pytest.mark.parametrize(
    ("trigger", "nice", "scheduler"), [("schedule", 19, os.SCHED_IDLE), ("manual", 10, os.SCHED_OTHER)]
)
def test_worker_runs_where_nobody_else_wants_to_unless_it_was_asked_for(house, tmp_path, trigger, nice, scheduler):
    frugal = House(tmp_path / "frugal", training={"threads": 3})
    frugal.correct()
    supervisor = frugal.supervisor()
    job = supervisor.adapt(trigger=trigger)
    ended(frugal, supervisor, job)
    first = supervisor.progress(job.id)[0]
    assert (first["nice"], first["threads"], first["scheduler"]) == (min(19, os.nice(0) + nice), "3", scheduler)
    frugal.close()


def test_rejected_candidate_is_kept_in_the_job_directory_and_incumbent_stays_active(house):
    incumbent = house.publish()
    supervisor = house.supervisor("--reply", "1.99")
    row = ended(house, supervisor, supervisor.adapt())
    assert (row.status, row.version) == ("rejected", None)
    assert "held-out replies" in row.error
    assert house.store.active("default") == incumbent
    assert (house.folder(row.id) / CANDIDATE / "adapter_model.safetensors").exists()


def test_nothing_to_learn_fails_the_job_with_a_message_and_starts_no_worker(house):
    supervisor = house.supervisor()
    row = ended(house, supervisor, supervisor.adapt("nobody"))
    assert row.status == "failed"
    assert "Correct or approve more replies" in row.error
    assert not house.folder(row.id).exists()


def test_crashed_worker_leaves_its_last_line_in_the_record_and_its_log_in_the_job_directory(house):
    supervisor = house.supervisor("--crash-at", "2")
    row = ended(house, supervisor, supervisor.adapt())
    assert row.status == "failed"
    assert "exit status 1" in row.error
    assert "Traceback" not in row.error
    assert "MemoryError: the stand-in was told to crash" in row.error
    assert "Traceback" in (house.folder(row.id) / LOG_NAME).read_text()
    assert house.store.active("default") is None
    assert supervisor.adapt().id != row.id  # a failure does not block the next job


def test_error_names_the_signal_that_killed_the_worker(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    os.kill(at_work(supervisor, job), signal.SIGKILL)
    row = ended(house, supervisor, job)
    assert row.status == "failed"
    assert "SIGKILL" in row.error


def test_command_that_cannot_be_started_is_a_failed_job(house):
    supervisor = house.supervisor(command=("/nowhere/python",))
    row = ended(house, supervisor, supervisor.adapt())
    assert row.status == "failed"
    assert "/nowhere/python" in row.error


def test_failure_that_the_worker_reports_is_the_jobs(house):
    supervisor = house.supervisor("--error", "BudgetTooSmall")
    row = ended(house, supervisor, supervisor.adapt())
    assert (row.status, row.error) == ("failed", "the budget cannot hold it")


def test_failed_swap_puts_the_incumbent_back_and_the_record_says_why(house):
    incumbent = house.publish()
    house.engine.failing = True
    supervisor = house.supervisor()
    row = ended(house, supervisor, supervisor.adapt())
    assert (row.status, row.version) == ("failed", 2)
    assert "another shape" in row.error
    assert "v1 is in use as before" in row.error
    assert house.store.active("default") == house.engine.serving("default") == incumbent


def test_cancelled_job_ends_its_worker_and_leaves_the_incumbent(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    supervisor.cancel(job.id)
    row = ended(house, supervisor, job)
    assert row.status == "cancelled"
    assert "cancelled" in row.error
    assert state_of(pid) == "X"
    assert house.store.versions("default") == []


def test_job_that_is_cancelled_at_once_never_publishes(house):
    supervisor = house.supervisor()
    job = supervisor.adapt()
    supervisor.cancel(job.id)
    assert ended(house, supervisor, job).status == "cancelled"
    assert house.store.versions("default") == []


def test_paused_job_can_be_cancelled(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    supervisor.pause(job.id)
    until(lambda: state_of(pid) == "T", "a stopped worker")
    supervisor.cancel(job.id)
    assert ended(house, supervisor, job).status == "cancelled"
    assert state_of(pid) == "X"


def test_worker_that_ignores_sigterm_is_killed_after_the_grace_time(house, go):
    supervisor = house.supervisor("--wait", str(go), "--deaf")
    supervisor._worker._grace_s = 0.0
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    supervisor.cancel(job.id)
    assert ended(house, supervisor, job).status == "cancelled"
    assert state_of(pid) == "X"


def test_hanging_worker_is_killed_and_continues_from_its_checkpoint(tmp_path):
    house = House(tmp_path / "data", training={"hang_s": 3.0})
    house.correct()
    supervisor = house.supervisor("--hang-at", "2")
    row = ended(house, supervisor, supervisor.adapt())
    assert (row.status, row.attempts) == ("succeeded", 1)
    lines = supervisor.progress(row.id)
    assert [line["resumed"] for line in lines if "resumed" in line] == [0, 2]
    house.close()


def test_worker_that_hangs_every_time_fails_the_job_with_a_message(tmp_path):
    house = House(tmp_path / "data", training={"hang_s": 1.0})
    house.correct()
    supervisor = house.supervisor(command=(sys.executable, "-c", "import time; time.sleep(600)"))
    row = ended(house, supervisor, supervisor.adapt())
    assert row.status == "failed"
    assert "got no further for 1 s (training.hang_s)" in row.error
    house.close()


def test_paused_worker_does_not_count_as_hanging(tmp_path, go):
    house = House(tmp_path / "data", training={"hang_s": 2.0})
    house.correct()
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    supervisor.pause(job.id)
    time.sleep(2.5)
    assert state_of(pid) == "T"
    go.touch()
    supervisor.resume(job.id)
    row = ended(house, supervisor, job)
    assert row.status == "succeeded"
    assert row.pauses["user"]["count"] == 1
    assert row.pauses["user"]["seconds"] > 2.4
    house.close()


def test_paused_worker_stands_still_until_it_is_resumed(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    assert supervisor.pause(job.id).status == "paused"
    until(lambda: state_of(pid) == "T", "a stopped worker")
    stood_at = steps(supervisor, job)
    house.preemption.set_busy(True)
    house.preemption.set_busy(False)
    until(lambda: house.preemption._timer._timer is None, "the end of the idle time")
    assert (state_of(pid), steps(supervisor, job)) == ("T", stood_at)  # a request that ends resumes nothing
    assert supervisor.resume(job.id).status == "running"
    until(lambda: steps(supervisor, job) > stood_at, "a step after the pause")
    go.touch()
    assert ended(house, supervisor, job).status == "succeeded"


def test_worker_stands_still_while_a_reply_is_generated_and_goes_on_after(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    house.preemption.set_busy(True)
    until(lambda: state_of(pid) == "T", "a stopped worker")
    stood_at = steps(supervisor, job)
    assert house.db.jobs.get(job.id).status == "running"  # nobody paused it
    house.preemption.set_busy(False)
    house.preemption.set_busy(True)  # the next request comes within the idle time
    assert state_of(pid) == "T"
    house.preemption.set_busy(False)
    until(lambda: state_of(pid) != "T", "a worker that runs again")
    until(lambda: steps(supervisor, job) > stood_at, "a step after the reply")
    go.touch()
    assert ended(house, supervisor, job).status == "succeeded"


def test_worker_is_not_started_while_a_reply_is_generated(house):
    supervisor = house.supervisor()
    house.preemption.set_busy(True)
    job = supervisor.adapt()
    until(lambda: (house.folder(job.id) / LOG_NAME).exists(), "a job that is ready for its worker")
    assert supervisor._worker.pid is None
    house.preemption.set_busy(False)
    assert ended(house, supervisor, job).status == "succeeded"


def test_requests_without_a_job_disturb_nothing(house):
    supervisor = house.supervisor()
    for busy in (True, False, True, False):
        house.preemption.set_busy(busy)
    assert ended(house, supervisor, supervisor.adapt()).status == "succeeded"


def test_second_adapt_is_refused_and_names_the_job_that_runs(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    with pytest.raises(JobRunning, match=job.id):
        supervisor.adapt("alice")
    assert len(house.db.jobs.list()) == 1
    go.touch()
    ended(house, supervisor, job)
    assert ended(house, supervisor, supervisor.adapt()).status == "succeeded"


def test_of_many_adapts_at_once_one_runs(house, go):
    supervisor, refused = house.supervisor("--wait", str(go)), []

    def ask() -> None:
        try:
            supervisor.adapt()
        except JobRunning as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(refused), len(house.db.jobs.list())) == (7, 1)


def test_finished_or_unknown_job_can_be_neither_paused_resumed_nor_cancelled(house):
    supervisor = house.supervisor()
    row = ended(house, supervisor, supervisor.adapt())
    for ask in (supervisor.pause, supervisor.resume, supervisor.cancel):
        with pytest.raises(JobNotRunning, match="succeeded"):
            ask(row.id)
        with pytest.raises(JobNotFound):
            ask("j-nothing")
    assert house.db.jobs.get(row.id) == row


def test_invalid_profile_and_missing_model_leave_no_job(house):
    supervisor = house.supervisor()
    with pytest.raises(AdapterNotFound):
        supervisor.adapt("../../etc")

    def loading():
        raise ModelLoading("the model is being loaded")

    object.__setattr__(supervisor._context, "base_model", loading)
    with pytest.raises(ModelLoading):
        supervisor.adapt()
    assert house.db.jobs.list() == []


def test_scheduled_run_without_news_leaves_no_job(house):
    supervisor = house.supervisor()
    ended(house, supervisor, supervisor.adapt())
    with pytest.raises(NothingToLearn):
        supervisor.adapt(trigger="schedule")
    assert len(house.db.jobs.list()) == 1
    assert ended(house, supervisor, supervisor.adapt()).status == "succeeded"  # who asks is served


def test_scheduled_job_names_new_or_deleted_feedback_or_changed_settings_as_its_reason(tmp_path):
    house = House(tmp_path / "data", schedule={"min_new_feedback": 3})
    ids = house.correct(6)
    supervisor = house.supervisor()

    def night() -> str | None:
        return ended(house, supervisor, supervisor.adapt(trigger="schedule")).reason

    assert night() == "6 examples, none of which has been trained on"
    first = house.db.jobs.list()[0].id
    house.db.feedback.add(tell("And house 7?", "It is 7."))
    with pytest.raises(NothingToLearn, match=r"1 examples are new since job .*, a scheduled job needs 3"):
        supervisor.adapt(trigger="schedule")
    house.db.erasures.feedback(ids[0])
    assert night() == f"1 of the examples of job {first} have been deleted"
    for number in range(8, 11):
        house.db.feedback.add(tell(f"And house {number}?", f"It is {number}."))
    assert night().startswith("3 new examples since job")
    supervisor.use(house.settings.model_copy(update={"gate": GatePolicy(min_reply_gain=0.01)}))
    assert night().startswith("other settings than those of job")
    assert supervisor.adapt(trigger="manual").reason == "somebody asked for it"
    house.close()


def test_closed_daemon_leaves_a_checkpoint_and_its_successor_goes_on_from_it(house, go, tmp_path):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    pid = at_work(supervisor, job)
    supervisor.close()
    assert state_of(pid) == "X"
    row = house.db.jobs.get(job.id)
    assert (row.status, row.attempts) == ("running", 0)  # a clean stop is no failed try
    reached = steps(supervisor, job)
    with pytest.raises(JobRunning):
        supervisor.adapt()

    go.touch()
    successor = House(tmp_path / "data")
    supervisor = successor.supervisor("--wait", str(go))
    with pytest.raises(JobRunning):
        supervisor.adapt()
    assert [found.id for found in supervisor.recover()] == [job.id]
    assert ended(successor, supervisor, job).status == "succeeded"
    resumed = [line["resumed"] for line in supervisor.progress(job.id) if "resumed" in line]
    assert resumed == [0, reached]
    successor.close()


def test_paused_job_stays_paused_in_the_next_daemon(house, go, tmp_path):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    at_work(supervisor, job)
    supervisor.pause(job.id)
    supervisor.close()
    go.touch()
    successor = House(tmp_path / "data")
    supervisor = successor.supervisor("--wait", str(go))
    supervisor.recover()
    until(lambda: successor.db.jobs.get(job.id).attempts == 1, "the job taken up")
    assert successor.db.jobs.get(job.id).status == "paused"
    assert supervisor._worker.pid is None
    supervisor.resume(job.id)
    assert ended(successor, supervisor, job).status == "succeeded"
    successor.close()


def test_killed_daemon_takes_its_worker_along_and_its_successor_goes_on_in_the_same_directory(tmp_path, go):
    data_dir = tmp_path / "data"
    house = House(data_dir)
    house.correct()
    command = [sys.executable, "-m", "tests.service.house", str(data_dir), "--wait", str(go)]
    daemon = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    supervisor = house.supervisor("--wait", str(go))
    until(house.db.jobs.list, "a job of the other daemon")
    job = house.db.jobs.list()[0]
    until(lambda: any(line["step"] > 2 for line in supervisor.progress(job.id)), "a step of the worker")
    worker = supervisor.progress(job.id)[-1]["pid"]
    daemon.kill()
    daemon.wait()
    until(lambda: state_of(worker) in "XZ", "the death of the worker")
    reached = steps(supervisor, job)
    assert house.db.jobs.get(job.id).status == "running"

    go.touch()
    supervisor.recover()
    row = ended(house, supervisor, job)
    assert (row.status, row.version, row.attempts) == ("succeeded", 1, 2)
    resumed = [line["resumed"] for line in supervisor.progress(job.id) if "resumed" in line]
    assert resumed[0] == 0
    assert 0 < resumed[1] <= reached
    house.close()


def test_job_that_ended_with_the_daemon_too_often_is_given_up(house):
    job = house.db.jobs.add("default", "manual")
    house.db.jobs.update(job.id, status="running", attempts=MAX_TRIES)
    supervisor = house.supervisor()
    supervisor.recover()
    row = ended(house, supervisor, job)
    assert row.status == "failed"
    assert f"given up after {MAX_TRIES} tries" in row.error
    assert supervisor.recover() == []


def test_unfinished_job_can_be_cancelled_before_it_is_recovered(house):
    job = house.db.jobs.add("default", "manual")
    supervisor = house.supervisor()
    assert supervisor.cancel(job.id).status == "cancelled"
    assert supervisor.recover() == []


def test_several_unfinished_jobs_are_run_one_after_another(house):
    house.correct(4, "alice")
    jobs = [house.db.jobs.add(profile, "manual") for profile in ("default", "alice")]
    supervisor = house.supervisor()
    supervisor.recover()
    assert supervisor.wait(30)
    assert [house.db.jobs.get(job.id).status for job in jobs] == ["succeeded", "succeeded"]


def test_worker_that_somebody_else_stops_is_started_again_from_its_checkpoint(house, go):
    supervisor = house.supervisor("--wait", str(go))
    job = supervisor.adapt()
    os.kill(at_work(supervisor, job), signal.SIGTERM)
    go.touch()
    assert ended(house, supervisor, job).status == "succeeded"
    assert len([line for line in supervisor.progress(job.id) if "resumed" in line]) == 2


def test_stray_worker_of_a_dead_daemon_is_killed_and_a_stranger_with_its_id_is_not(tmp_path):
    folder = tmp_path / "j-1"
    folder.mkdir()
    assert kill_stray(folder) is None
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    for command, dies in ((sleep, False), ([*sleep, str(folder)], True)):
        process = subprocess.Popen(command)
        (folder / PID_NAME).write_text(f'{{"pid": {process.pid}}}')
        until(lambda process=process: state_of(process.pid) == "S", "a process that sleeps")
        assert (kill_stray(folder) == process.pid) is dies
        assert (process.poll() is not None) is dies
        process.kill()
        process.wait()


def test_plan_that_takes_too_long_is_an_error_and_leaves_nothing(house, monkeypatch):
    monkeypatch.setattr("service.cycle.dry_run.TIMEOUT_S", 0.2)
    supervisor = house.supervisor(command=(sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(WorkerFailed, match="no plan after"):
        supervisor.plan()
    assert list(house.settings.jobs_dir.iterdir()) == []


def test_dry_run_that_fails_in_the_worker_raises_the_error_the_worker_met(house):
    supervisor = house.supervisor(command=(sys.executable, "-m", "lars_agent.training.worker"))
    with pytest.raises(ModelNotFound, match="/nowhere/model"):
        supervisor.plan()
