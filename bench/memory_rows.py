"""The memory bench's claims, made of measured cells; what was not measured makes no row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from bench import goal_cells as goals
from bench.allocators import ALLOCATORS
from bench.cell import Cell
from bench.cells_file import FAILED
from bench.record import row

Records = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]
MIB, MB = 2**20, 10**6
KEY_VALUE_BYTES = 2 * 30 * 192 * 4  # of one token: keys and values of the default model's 30 layers in float32
STOCK = "PEFT as its users run it: transformers' attention, glibc as it comes"
GIVEN = "the same LoRA, given our allocator settings and attention"


class NotMeasured(Exception):
    """A figure that a row needs is not there."""


class Measured:
    """Cells by key."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def figure(self, cell: Cell, name: str) -> float:
        """Raises NotMeasured, also for a cell that failed."""
        found = self.records.get(cell.key)
        if found is None or FAILED in found or name not in found:
            raise NotMeasured(f"{name} of {cell}")
        return float(found[name])

    def peak(self, cell: Cell) -> float:
        """Peak resident bytes of the whole process once the model was loaded, program and weights included."""
        return self.figure(cell, "peak_bytes")


def memory_rows(records: Records) -> list[Row]:
    """Every row whose cells are there."""
    measured, rows = Measured(records), []
    for builder in BUILDERS:
        with contextlib.suppress(NotMeasured):
            rows.extend(builder(measured))
    return [*rows, *allocator_rows(measured)]


def train_over_inference(measured: Measured) -> Iterator[Row]:
    ratio = measured.peak(goals.RESPONSE_4096) / measured.peak(goals.INFERENCE_4096)
    note = "whole process; inference with an adapter, by the endpoint's decoder"
    yield row("train_over_inference_peak_ctx4096_bf16", [ratio], "ratio", "lower", goal=1.15, note=note)


def token_term_over_inference(measured: Measured) -> Iterator[Row]:
    ratio = measured.peak(goals.TOKEN_TERM_4096) / measured.peak(goals.INFERENCE_4096)
    yield row("train_over_inference_peak_ctx4096_bf16_with_token_term", [ratio], "ratio", "lower")


def reduction(measured: Measured, name: str, method: str, goal: float, *, stock: bool) -> Iterator[Row]:
    """How far below PEFT's LoRA (r 8, all linear layers, loss and logits on the reply alone, float32) training is."""
    value = 1 - measured.peak(goals.response(2048)) / measured.peak(goals.lora(method, stock=stock))
    suffix = "" if stock else "_given_our_allocator_and_attention"
    note = STOCK if stock else GIVEN
    yield row(name + suffix, [value], "ratio", "higher", goal=goal if stock else None, note=note)


def growth(measured: Measured) -> Iterator[Row]:
    short, long = goals.GROWTH_CONTEXTS
    grown = measured.peak(goals.response(long)) - measured.peak(goals.response(short))
    yield row(
        "growth_over_kv_growth_ctx1024_to_8192",
        [grown / (KEY_VALUE_BYTES * (long - short))],
        "ratio",
        "lower",
        goal=1.10,
        note="float32; 1 is the KV cache's own growth",
    )


def published(measured: Measured) -> Iterator[Row]:
    value = 1 - measured.peak(goals.PUBLISHED_2048) / measured.peak(goals.lora("lora", stock=False))
    note = "as published, no other lever; the paper reports 51.95% on CPUs"
    yield row("sequence_mode_reduction_vs_lora_plain_ctx2048", [value], "ratio", "higher", goal=0.38, note=note)


def speedup(measured: Measured) -> Iterator[Row]:
    pairs = [[measured.figure(cell, "seconds") for cell in goals.timed_pair(run)] for run in range(goals.TIMED_PAIRS)]
    yield row(
        "step_speedup_vs_lora_checkpointed_ctx1024",
        [slow / fast for slow, fast in pairs],
        "ratio",
        "higher",
        goal=2.0,
        note="paired runs, reply 128, float32",
    )


def qwen(measured: Measured) -> Iterator[Row]:
    above = measured.peak(goals.QWEN_256) - measured.figure(goals.QWEN_256, "loaded_bytes")
    note = (
        "MB of 10^6; random weights; prompt 128 + reply 128, batch 1, bf16, rank 8; peak less the model ready to serve"
    )
    yield row("mb_above_weights_qwen2.5_0.5b_seq256", [above / MB], "MB", "lower", goal=136, note=note)


def llama(measured: Measured) -> Iterator[Row]:
    """The loading counts: the process has to live through it under the limit."""
    peak = max(measured.figure(goals.LLAMA_4096, name) for name in ("peak_bytes", "load_peak_bytes"))
    note = (
        "random weights; reply 128, rank 8, 20 steps in a memory cgroup of 1.5 GiB without swap; the loading included"
    )
    yield row("llama3.2_1b_int4_ctx4096_peak_mib", [peak / MIB], "MiB", "lower", goal=1536, note=note)


def allocator_rows(measured: Measured) -> Iterator[Row]:
    """What the choice of an allocator does to `response` training: peak and seconds."""
    for dtype in goals.ALLOCATOR_DTYPES:
        for name, allocator in ALLOCATORS.items():
            cell = goals.with_allocator(name, dtype)
            note = f"{allocator.words}; response, context {cell.context:,}, {dtype}"
            with contextlib.suppress(NotMeasured):
                yield row(f"allocator_{name}_peak_mib_{dtype}", [measured.peak(cell) / MIB], "MiB", "lower", note=note)
                seconds = measured.figure(cell, "seconds")
                yield row(f"allocator_{name}_step_s_{dtype}", [seconds], "s", "lower", note=note)


def _reductions(name: str, method: str, goal: float) -> list[Any]:
    return [
        lambda measured, stock=stock: reduction(measured, name, method, goal, stock=stock) for stock in (True, False)
    ]


BUILDERS = [
    train_over_inference,
    token_term_over_inference,
    *_reductions("reduction_vs_lora_plain_ctx2048", "lora", 0.80),
    *_reductions("reduction_vs_lora_checkpointed_chunked_ctx2048", goals.CHECKPOINTED, 0.50),
    growth,
    published,
    speedup,
    qwen,
    llama,
]
