"""The memory bench on a tiny model: real processes, and a real step of every method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.memory.cell import METHODS, allocator_environment, given_ours, usual
from bench.memory.child import opened_for, prepared, run
from bench.memory.process import inherited, memory_limit
from lars_agent.errors import LarsError
from service.worker.process import worker_environment

DEPRECATED = "ignore:.*checkpointing.*is deprecated:FutureWarning"  # PEFT and transformers among themselves
SMALL = ("--contexts", "24", "--dtypes", "float32", "--reply", "8", "--threads", "1", "--steps", "2")


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "memory-cells.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_a_step(tiny, method):
    cell = usual(method, 24, "float32", reply=8, steps=1)
    figures = run(cell, prepared(cell, opened_for(cell, tiny)))
    assert len(figures["step_seconds"]) == 1


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize("method", ["response", "lora+checkpointing+chunked"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_ours_and_pefts_train_on_every_kind_of_weights(tiny, method, dtype):
    cell = usual(method, 24, dtype, reply=8, steps=1)
    assert run(cell, prepared(cell, opened_for(cell, tiny)))["seconds"] > 0


def test_a_cell_that_does_not_end_is_a_record_without_figures_and_can_be_tried_again_once(bench, tiny, tmp_path):
    arguments = ("memory", "--model", tiny, *SMALL, "--methods", "response", "--out", tmp_path)
    assert bench(*arguments, "--time-limit", "0.5").returncode == 0
    (failed,) = records(tmp_path)
    assert "not done after" in failed["failed"]
    assert "peak_bytes" not in failed
    done = bench(*arguments, "--retry")
    assert done.returncode == 0, done.stderr
    figures = records(tmp_path)[1]
    assert figures["peak_bytes"] > figures["loaded_bytes"] > 0
    assert bench(*arguments, "--retry").returncode == 0
    assert len(records(tmp_path)) == 2


def test_peft_gets_the_allocator_that_its_users_have():
    assert allocator_environment(usual("lora", 24, "float32").allocator) == {}
    ours = allocator_environment(usual("response", 24, "float32").allocator)
    assert ours.items() <= worker_environment(1).items()
    assert allocator_environment(given_ours("lora", 24, "float32").allocator) == ours


def test_an_allocator_of_its_own_library_is_loaded_before_all_others():
    assert "jemalloc" in allocator_environment("jemalloc_returning")["LD_PRELOAD"]


def test_what_chooses_the_benchs_own_allocator_is_not_handed_on(monkeypatch):
    for name in ("LD_PRELOAD", "MALLOC_CONF", "MIMALLOC_PURGE_DELAY", "MALLOC_ARENA_MAX"):
        monkeypatch.setenv(name, "1")
        assert name not in inherited()


def test_a_cell_that_passes_its_limit_is_told_apart(bench, tiny, tmp_path):
    try:
        with memory_limit(50_000_000):
            pass
    except LarsError as error:
        pytest.skip(str(error))
    arguments = ("memory", "--model", tiny, *SMALL, "--methods", "response", "--out", tmp_path)
    assert bench(*arguments, "--limit", "50000000").returncode == 0
    (record,) = records(tmp_path)
    assert "passed the limit of 50,000,000 bytes" in record["failed"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--methods", "lora,nope"), 2, "'nope' is none of"),
        (("--dtypes", "float16"), 2, "'float16' is none of"),
        (("--contexts", "1k"), 2, "'1k' is no number of tokens"),
        (("--device", "tpu"), 2, "'tpu' is not one of"),
        (("--methods", "lora", "--model", "no-such-model"), 1, "no model 'no-such-model'"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(bench, tmp_path, arguments, status, words):
    done = bench("memory", *arguments, "--out", tmp_path, "--models", tmp_path)
    assert done.returncode == status
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
