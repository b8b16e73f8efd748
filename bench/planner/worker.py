"""A real job folder for a random job, and the measurements of the real worker on it."""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from bench.daemon import training_worker, worker_message
from bench.models import ready_model
from bench.planner.jobs import PlannedJob
from bench.serve.child import text_of
from bench.suite import FAILED, Record
from lars_agent.example import Example, Message
from lars_agent.memory.measure import peak_rss_bytes
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import open_tokenizer
from lars_agent.models.weights import model_digest, weight_files
from lars_agent.records import from_json
from lars_agent.training import job_directory
from lars_agent.training.batches import encode
from lars_agent.training.job_plan import promised_bytes

STEPS = 2
WHOLE_EVERY = 10
LONG_STEPS, LONG_BATCHES = 12, 4  # of a job that runs to its end: rows of ever other lengths
POLL_S = 0.1
COSTS_FILE = "costs.json"  # as the daemon keeps it in its data folder
SLACK = 16  # tokens that a text may gain when the worker strips it and reads it again
HELDOUT = 2
LEAST_SHARE = 0.3  # of the job's lengths, that an example has
KEPT = ("status", "error", "error_type", "peak_bytes", "predicted_peak_bytes", "seconds")


def run_job(subject: Record, models: Path, threads: int, time_limit_s: float) -> dict[str, Any]:
    """Measured and predicted peak of the job; `begun` tells whether the worker came to load the model.

    Every `WHOLE_EVERY`th job is like a night's, with more steps and more examples than one batch holds, and runs to
    its end; the others are ended once trained, before the general text is evaluated, which takes as long as all before
    it and less memory, and their peak is the kernel's.
    """
    job = from_json(PlannedJob, subject)
    model, whole = ready_model(job.model, job.dtype, "cpu", models), job.number % WHOLE_EVERY == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(job, model, folder, threads, models / COSTS_FILE, whole=whole)
        ending, peak_bytes = _work(folder, threads, time_limit_s, whole=whole)
        result, plan_file = job_directory.read_result(folder), folder / job_directory.PLAN_FILE
        plan = job_directory.read_json(plan_file) if plan_file.exists() else None
        values = {"status": FAILED, "error_type": None, "error": ending} if result is None else asdict(result)
        if result is None and plan is not None and is_trained(folder):
            values = {"status": "succeeded", "peak_bytes": peak_bytes, "predicted_peak_bytes": promised_bytes(folder)}
        return {
            **{name: values.get(name) for name in KEPT},
            "threads": threads,
            "whole": whole,
            "begun": (folder / job_directory.PROGRESS_FILE).exists(),
            "plan": plan and {name: plan[name] for name in ("plan", "estimate", "stepped_down")},
        }


def is_trained(folder: Path) -> bool:
    """Tell whether the worker has come to its last phase."""
    return any(line["phase"] == "judging" for line in job_directory.read_progress(folder))


def write_job(job: PlannedJob, model: Path, folder: Path, threads: int, costs_file: Path, *, whole: bool) -> None:
    """Write a job of `STEPS` steps on one batch, or (`whole`) of more on several, evaluated before and after.

    The first example has the job's lengths; the others' prompts and replies have any share of these from `LEAST_SHARE`.
    """
    steps, count = (LONG_STEPS, LONG_BATCHES * job.batch + HELDOUT) if whole else (STEPS, job.batch + HELDOUT)
    tokenizer, rng = open_tokenizer(model), random.Random(f"{job.seed}/{job.number}/lengths")
    shares = [(1.0, 1.0), *((rng.uniform(LEAST_SHARE, 1), rng.uniform(LEAST_SHARE, 1)) for _ in range(count - 1))]
    examples = [
        example_of(tokenizer, round(job.context * prompt), round(job.reply * reply), number)
        for number, (prompt, reply) in enumerate(shares)
    ]
    longest = max(len(encode(tokenizer, example, 10**9)) for example in examples)
    training = {"steps": steps, "batch_size": job.batch, "evaluate_every": steps, "max_seq_len": longest + SLACK}
    job_directory.JobSpec(
        job_id=f"bench-{job.seed}-{job.number}",
        profile="bench",
        model_path=str(model),
        model_sha256=model_digest(model, weight_files(model)),
        dtype=job.dtype,
        training=training,
        budget_bytes=job.budget_bytes,
        threads=threads,
        seed=job.seed,
        costs_file=str(costs_file),
    ).write(folder)
    job_directory.write_examples(folder / job_directory.TRAIN_FILE, examples[:-HELDOUT])
    job_directory.write_examples(folder / job_directory.HELDOUT_FILE, examples[-HELDOUT:])


def example_of(tokenizer: PreTrainedTokenizerFast, context: int, reply: int, number: int) -> Example:
    """Ordinary text: a prompt of `context` tokens (the template's included) and a reply of `reply`."""
    frame = len(encode_prompt(tokenizer, [Message(role="user", content="")]))
    question = text_of(tokenizer, max(1, context - frame), start=97 * number)
    answer = text_of(tokenizer, max(1, reply - 1), start=97 * number + context)
    return Example((Message(role="user", content=question),), answer, 1.0, f"text-{number}")


def _work(folder: Path, threads: int, time_limit_s: float, *, whole: bool) -> tuple[str, int]:
    """Run the worker on the job; return how it ended, in words, and its peak in bytes."""
    until, peak_bytes = time.monotonic() + time_limit_s, 0
    with training_worker(folder, threads) as worker:
        while worker.poll() is None:
            with suppress(ProcessLookupError):
                peak_bytes = max(peak_bytes, peak_rss_bytes(worker.pid))
            if time.monotonic() > until or (not whole and is_trained(folder)):
                worker.kill()
            time.sleep(POLL_S)
    return f"exit status {worker.returncode}: {worker_message(folder)}", peak_bytes
