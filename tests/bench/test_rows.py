"""Rows and plots made of cells that nobody had to measure."""

from __future__ import annotations

import dataclasses

import pytest

from bench.memory.cell import METHODS, Cell, usual
from bench.memory.goals import CELLS, KEPT, LORA, REPLY_ONLY, goal_cells, memory_rows
from bench.planner.jobs import RANGES, draw_jobs, planner_rows
from bench.plots import plot_memory
from bench.serve.parts import serve_rows
from lars_agent.records import from_json

# The names that others refer to (bench/results/memory.json has had them from the start).
PROMISED = {
    "train_over_inference_peak_ctx4096_bf16",
    "reduction_vs_lora_plain_ctx2048",
    "reduction_vs_lora_plain_ctx2048_given_our_allocator_and_attention",
    "reduction_vs_lora_checkpointed_chunked_ctx2048",
    "reduction_vs_lora_checkpointed_chunked_ctx2048_given_our_allocator_and_attention",
    "growth_over_kv_growth_ctx1024_to_8192",
    "sequence_mode_reduction_vs_lora_plain_ctx2048",
    "step_speedup_vs_lora_checkpointed_ctx1024",
    "mb_above_weights_qwen2.5_0.5b_seq256",
    "llama3.2_1b_int4_ctx4096_peak_mib",
}


def measured(cell: Cell, peak_mb: float = 1000.0) -> dict[str, object]:
    peak = int(peak_mb * 1e6)
    figures = {"peak_bytes": peak, "load_peak_bytes": peak // 2, "loaded_bytes": peak // 2, "seconds": peak_mb / 100}
    return dataclasses.asdict(cell) | figures | {"step_seconds": [peak_mb / 100] * cell.steps}


def job(**changes: object) -> dict[str, object]:
    values = {"status": "succeeded", "error_type": None, "begun": True, "budget_bytes": 120}
    return values | {"predicted_peak_bytes": 100, "peak_bytes": 100} | changes


def test_the_goals_cells_make_every_promised_row():
    rows = memory_rows({cell.key: measured(cell) for cell in goal_cells()})
    assert {row["name"] for row in rows} >= PROMISED


def test_a_job_is_compared_with_all_its_steps_and_a_later_epoch_with_the_replys_own():
    seconds = {"response": [9.0, 1.0, 1.0, 1.0, 1.0], "lora+checkpointing": [4.0] * 3}
    records = {
        cell.key: measured(cell) | {"step_seconds": seconds[cell.method], "seconds": seconds[cell.method][2]}
        for cell in (*LORA, *KEPT, *REPLY_ONLY)
    }
    values = {row["name"]: row["value"] for row in memory_rows(records)}
    assert values["step_speedup_vs_lora_checkpointed_ctx1024"] == pytest.approx(20 / 13, abs=1e-4)
    assert values["epoch2_over_reply_only_ctx1024"] == 1


def test_a_row_whose_cell_failed_is_absent():
    failed = {cell.key: dataclasses.asdict(cell) | {"failed": "signal SIGKILL"} for cell in goal_cells()}
    assert memory_rows(failed) == []


def test_the_cells_file_forgets_nothing_and_the_last_measurement_counts(tmp_path):
    cell = usual("response", 256, "float32")
    CELLS.append(tmp_path, measured(cell, 1))
    with (tmp_path / CELLS.file_name).open("a") as file:
        file.write('{"method": "lo')  # a bench that was killed
    CELLS.append(tmp_path, measured(dataclasses.replace(cell, steps=9), 2))
    assert len(list(CELLS.records(tmp_path))) == 2
    assert CELLS.newest(tmp_path)[cell.key]["peak_bytes"] == 2_000_000


def test_the_same_figures_draw_the_same_picture(tmp_path):
    records = [
        measured(usual(method, context, dtype), 100 + context * (index + 1) / 10)
        for index, method in enumerate(METHODS)
        for context in (256, 1024)
        for dtype in ("float32", "int4")
    ]
    first = [path.read_bytes() for path in plot_memory(records, tmp_path)]
    assert [path.read_bytes() for path in plot_memory(records, tmp_path)] == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory.png", "memory.svg"]
    assert b"LARS response" in (tmp_path / "memory.svg").read_bytes()


def test_the_planners_errors_are_of_predicted_over_measured():
    jobs = [
        job(predicted_peak_bytes=108),
        job(predicted_peak_bytes=97),
        job(budget_bytes=99),
        job(status="failed", error_type="BudgetExceeded"),
        job(status="failed", error_type="BudgetTooSmall", begun=False),
        job(status="failed", error_type=None, begun=False),
    ]
    values = {row["name"]: row["value"] for row in planner_rows(jobs)}
    assert values == {
        "planner_max_abs_error": 0.08,
        "planner_max_underestimate": 0.03,
        "budget_violations": 2,
        "planner_jobs_measured": 3,
        "planner_jobs_refused": 1,
        "planner_jobs_failed": 1,
    }


def test_a_longer_draw_of_jobs_begins_with_the_shorter_one():
    models, dtypes = list(RANGES), ["float32", "int4"]
    assert list(draw_jobs(60, 0, models, dtypes))[:10] == list(draw_jobs(10, 0, models, dtypes))
    assert list(draw_jobs(10, 1, models, dtypes)) != list(draw_jobs(10, 0, models, dtypes))


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_survives_its_record(method):
    cell = usual(method, 256, "int8", limit_bytes=10**9)
    assert from_json(Cell, measured(cell)) == cell


def test_a_grammar_s_cost_is_the_time_above_that_of_a_free_reply():
    replies = [{"free": 0.1, "held": held, "new_s": 0.25} for held in (0.1, 0.12, 0.105)]
    cost, new = serve_rows({"grammar": {"dtype": "int4", "threads": 2, "replies": replies}})
    assert (cost["name"], cost["value"], cost["goal"]) == ("grammar_cost", 0.05, 0.10)
    assert (new["name"], new["value"]) == ("grammar_new_ms", 250)
