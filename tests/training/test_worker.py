"""The worker as it is used: a real process on a job directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lars_agent.calibration import Calibration
from lars_agent.errors import DiskFull, JobInvalid
from lars_agent.example import Message
from lars_agent.files import sha256_of
from lars_agent.lars import load_adapter
from lars_agent.lars.state import CONFIG_FILE, WEIGHTS_FILE
from lars_agent.memory.allocator import thrifty_environment
from lars_agent.models.arithmetic import Arithmetic, timing_name
from lars_agent.models.open import open_model
from lars_agent.training import worker
from lars_agent.training.job_directory import (
    ALIVE_FILE,
    CANDIDATE,
    EXIT_DISK_FULL,
    HELDOUT_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    TRAIN_FILE,
    JobResult,
    JobSpec,
    read_examples,
    read_progress,
    read_result,
    write_examples,
)
from tests.tiny import save_tiny
from tests.training.conftest import FACTS, HELD_OUT, fact

TRAINING = {"steps": 12, "batch_size": 2, "evaluate_every": 4, "checkpoint_every": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def job(folder: Path, model_folder: Path, **changes) -> Path:
    spec = {
        "job_id": "j-1",
        "profile": "default",
        "model_path": str(model_folder),
        "model_sha256": open_model(model_folder).sha256,
        "base_model": "org/name@main",
        "base_model_revision": "c0ffee",
        "lars": {"rank": 4},
        "training": TRAINING,
        "threads": 1,
    }
    JobSpec(**spec).write(folder)
    record = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps(record | changes))  # also values that JobSpec refuses
    write_examples(folder / TRAIN_FILE, FACTS)
    write_examples(folder / HELDOUT_FILE, HELD_OUT)
    return folder


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lars_agent.training.worker", str(folder)],
        env=thrifty_environment(os.environ) | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path) -> int:
    process = start(folder)
    process.communicate(timeout=300)
    return process.returncode


def run_here(folder: Path) -> int:
    """Run the worker in this process, where nothing depends on its own: starting one takes seconds."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return worker.main([str(folder)])
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def done(tmp_path_factory, model_folder) -> Path:
    """The directory of a job that has been done."""
    folder = job(tmp_path_factory.mktemp("done") / "job", model_folder)
    assert run(folder) == 0
    return folder


def wait_for_step(folder: Path, process: subprocess.Popen[str], step: int) -> None:
    while process.poll() is None and not any(line["step"] >= step for line in read_progress(folder)):
        time.sleep(0.005)


def test_a_job_directory_in_and_a_candidate_with_its_scores_out(done, model_folder):
    result = read_result(done)
    assert result is not None
    assert result.status == "succeeded"
    assert result.candidate is not None
    assert result.base is not None
    assert result.incumbent == result.base
    assert result.losses["heldout"] == pytest.approx(result.candidate.reply_loss, rel=1e-5)
    assert result.peak_bytes is not None
    assert result.peak_bytes > 10_000_000
    lines = read_progress(done)
    assert [line["step"] for line in lines if line["phase"] == "training"] == list(range(1, 13))
    assert [line["phase"] for line in lines[-2:]] == ["judging", "done"]
    assert [(line["step"], line["best_step"]) for line in lines if "heldout_loss" in line] == [(4, 4), (8, 8), (12, 12)]
    assert result.best_step == 12
    assert result.candidate.recall is not None
    load_adapter(open_model(model_folder).model, done / CANDIDATE)
    config = json.loads((done / CANDIDATE / CONFIG_FILE).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/name", "c0ffee")


def test_a_worker_killed_at_any_moment_goes_on_and_ends_in_the_same_bytes(tmp_path, model_folder, done):
    broken = job(tmp_path / "broken", model_folder)
    for step in (3, 9):
        process = start(broken)
        wait_for_step(broken, process, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    with (broken / PROGRESS_FILE).open("a") as file:
        file.write('{"phase": "training", "st')  # a torn line, as a kill leaves it
    assert run(broken) == 0
    assert sha256_of(broken / CANDIDATE / WEIGHTS_FILE) == sha256_of(done / CANDIDATE / WEIGHTS_FILE)
    assert [line["step"] for line in read_progress(broken)][:12] == list(range(1, 13))


def test_a_processor_that_is_slow_in_bfloat16_learns_the_same_from_weights_in_16_bits(tmp_path, model_folder):
    times, file = Arithmetic(bfloat16=3.0, float32=1.0), tmp_path / "costs.json"
    Calibration(file).get(Arithmetic, timing_name(), lambda: (times, True))
    kept = {"costs_file": str(file), "training": TRAINING | {"steps": 2}}
    whole, narrow = (job(tmp_path / dtype, model_folder, dtype=dtype, **kept) for dtype in ("float32", "auto"))
    assert [run_here(folder) for folder in (whole, narrow)] == [0, 0]
    first, second = (read_result(folder) for folder in (whole, narrow))
    assert second.candidate.reply_loss == pytest.approx(first.candidate.reply_loss, rel=1e-4)
    assert second.base.reply_loss == pytest.approx(first.base.reply_loss, rel=1e-5)
    weights = [load_file(folder / CANDIDATE / WEIGHTS_FILE) for folder in (whole, narrow)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0.02, atol=2e-4)


def test_worker_shows_between_steps_too_that_it_gets_on(tmp_path, model_folder):
    folder = job(tmp_path / "job", model_folder, training=TRAINING | {"steps": 1, "evaluate_every": 1})
    code = (
        "import sys; from lars_agent.training import worker; worker.ALIVE_S = 0.0; sys.exit(worker.main(sys.argv[1:]))"
    )
    environment = thrifty_environment(os.environ) | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True)
    (line, *_) = read_progress(folder)
    assert line["step"] == 1
    assert (folder / ALIVE_FILE).stat().st_mtime > line["time"]  # while it was judging
    result = read_result(folder)
    assert result is not None
    assert 0 < line["cpu_s"] <= result.cpu_seconds


def test_sigterm_stops_at_a_checkpoint_with_exit_75_and_no_result(tmp_path, model_folder):
    folder = job(tmp_path / "job", model_folder, training=TRAINING | {"steps": 5000, "checkpoint_every": 5000})
    process = start(folder)
    wait_for_step(folder, process, 2)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert not (folder / RESULT_FILE).exists()
    assert list(folder.glob("checkpoint-*"))


def test_worker_that_finds_no_room_for_its_result_says_so_by_its_exit_status(tmp_path, monkeypatch):
    def full(self: JobResult, folder: Path) -> None:
        raise DiskFull("no room on the disk")

    monkeypatch.setattr(JobResult, "write", full)
    (tmp_path / "job").mkdir()  # without a job.json
    assert worker.main([str(tmp_path / "job")]) == EXIT_DISK_FULL


@pytest.mark.parametrize(
    ("changes", "error_type", "message"),
    [
        ({"schema": 99}, "JobInvalid", "schema 99"),
        ({"model_sha256": "0" * 64}, "JobInvalid", "start a new job"),
        ({"model_path": "/nonexistent"}, "ModelNotFound", "/nonexistent"),
        ({"training": TRAINING | {"steps": -1}}, "JobInvalid", "training.steps"),
        ({"lars": {"rank": 4, "colour": 1}}, "JobInvalid", "colour"),
        ({"training": TRAINING | {"max_seq_len": 10}}, "NothingToLearn", "0 examples"),
    ],
)
def test_a_job_that_cannot_be_done_says_why_in_its_result(tmp_path, model_folder, changes, error_type, message):
    folder = job(tmp_path / "job", model_folder, **changes)
    assert run_here(folder) == 0
    result = read_result(folder)
    assert result is not None
    assert (result.status, result.error_type) == ("failed", error_type)
    assert message in (result.error or "")
    assert not (folder / CANDIDATE).exists()


def test_the_incumbent_is_measured_beside_the_candidate(tmp_path, model_folder, done):
    second = job(tmp_path / "second", model_folder, parent=str(done / CANDIDATE))
    assert run(second) == 0
    one, other = read_result(done), read_result(second)
    assert one is not None
    assert other is not None
    assert one.candidate is not None
    of_candidates_alone = {"recall_doubt": None, "loss_doubt": None, "looping": "", "spilled": ""}
    assert other.incumbent == replace(one.candidate, **of_candidates_alone)
    assert other.base == one.base


def test_a_job_that_goes_on_from_an_adapter_begins_with_what_that_one_knows(tmp_path, model_folder, done):
    training = TRAINING | {"steps": 1, "warmup_steps": 1, "learning_rate": 1e-9, "evaluate_every": 1}
    candidate = str(done / CANDIDATE)
    folder = job(tmp_path / "job", model_folder, parent=candidate, start=candidate, training=training)
    assert run_here(folder) == 0
    result = read_result(folder)
    assert result.candidate.reply_loss == pytest.approx(result.incumbent.reply_loss, rel=1e-4)
    assert result.candidate.reply_loss < 0.9 * result.base.reply_loss


def test_damaged_lines_of_progress_are_left_out(tmp_path):
    good = b'{"phase": "training", "step": 1}\n'
    damaged = b'{"phase": \xb4\n{"phase"}\n[1]\n' + 100_000 * b"[" + b"\n"
    (tmp_path / PROGRESS_FILE).write_bytes(good + damaged + good + good[:-1])
    assert read_progress(tmp_path) == 2 * [{"phase": "training", "step": 1}]


def test_wrong_use_exits_2(tmp_path):
    assert run(tmp_path / "nothing") == 2


def test_the_plan_is_kept(done):
    plan = json.loads((done / "plan.json").read_text())
    assert read_result(done).predicted_peak_bytes == plan["predicted_peak_bytes"]
    assert plan["plan"]["micro_batch"] == TRAINING["batch_size"]


def test_a_budget_too_small_for_any_plan_is_refused_before_the_model_is_opened(tmp_path, model_folder):
    elsewhere = tmp_path / "model"
    shutil.copytree(model_folder, elsewhere)
    (elsewhere / "model.safetensors").unlink()  # opening it would fail with another error
    folder = job(tmp_path / "job", model_folder, model_path=str(elsewhere), budget_bytes=1_000_000)
    assert run_here(folder) == 0
    result = read_result(folder)
    assert (result.status, result.error_type) == ("failed", "BudgetTooSmall")
    assert "raise memory.budget_bytes" in result.error


def test_an_example_that_cannot_be_used_is_left_out_and_does_not_stop_the_job(tmp_path, model_folder):
    folder = job(tmp_path / "job", model_folder)
    refused = replace(FACTS[0], messages=(Message(role="system", content="no such template"), *FACTS[0].messages))
    write_examples(folder / TRAIN_FILE, [refused, *FACTS[1:]])
    write_examples(folder / HELDOUT_FILE, [fact("Too long?", "x" * 3000)])  # all there is to judge by
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    template = model / "chat_template.jinja"
    refusal = "{% if 'no such template' in messages[0]['content'] %}{{ raise_exception('not this') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    JobSpec(**json.loads((folder / "job.json").read_text()) | {"model_path": str(model)}).write(folder)
    assert run(folder) == 0
    result = read_result(folder)
    assert (result.status, result.error) == ("succeeded", None)
    assert set(result.learned) == {example.source_id for example in FACTS[1:-1]}  # the last is judged by instead


def test_an_example_line_that_cannot_be_read_is_named(tmp_path):
    write_examples(tmp_path / TRAIN_FILE, FACTS[:2])
    assert read_examples(tmp_path / TRAIN_FILE) == FACTS[:2]
    lines = (tmp_path / TRAIN_FILE).read_text().splitlines()
    record = json.loads(lines[1])
    for bad in (
        "{",
        json.dumps(record | {"completion": []}),
        json.dumps(record | {"prompt": []}),
        json.dumps(record | {"weight": "heavy"}),
    ):
        (tmp_path / TRAIN_FILE).write_text(f"{lines[0]}\n{bad}\n")
        with pytest.raises(JobInvalid, match=r"train\.jsonl, line 2: example"):
            read_examples(tmp_path / TRAIN_FILE)
