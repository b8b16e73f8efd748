"""The cells of the memory bench: those that the goals need, their runs, and the rows made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.memory.cell import ALLOCATORS, SMALL, Cell, available, given_ours, usual
from bench.memory.process import measure
from bench.models import ready_model
from bench.plots import plot_memory
from bench.record import Row, claimed
from bench.suite import FAILED, Newest, Record, Store

MIB, MB = 2**20, 10**6
KEY_VALUE_BYTES = 2 * 30 * 192 * 4  # of one token: keys and values of the default model's 30 layers in float32
CHECKPOINTED = "lora+checkpointing+chunked"
TIMED_PAIRS = 3
SHORT, LONG = 1024, 8192

INFERENCE_4096 = usual("inference", 4096, "bfloat16")
RESPONSE_4096 = usual("response", 4096, "bfloat16")
TOKEN_TERM_4096 = usual("response+token", 4096, "bfloat16")
PUBLISHED_2048 = usual("sequence+plain", 2048, "float32")
TIGHTEST = {**SMALL, "mlp_tile": 32, "loss_chunk": 4, "prompt_chunk": 64}
QWEN_256 = usual("response", 128, "bfloat16", model="qwen2.5-0.5b", rank=8, plan=TIGHTEST)
LLAMA_4096 = usual("response", 4096, "int4", model="llama-3.2-1b", rank=8, plan=SMALL, steps=20, limit_bytes=3 * 2**29)
ALLOCATOR_CONTEXT, ALLOCATOR_DTYPES = 2048, ("bfloat16", "float32")


def response(context: int) -> Cell:
    """LARS in float32."""
    return usual("response", context, "float32")


def lora(method: str, *, stock: bool) -> Cell:
    """PEFT at context 2,048, as its users run it or given our allocator and attention."""
    return (usual if stock else given_ours)(method, 2048, "float32")


def timed_pair(run: int) -> tuple[Cell, Cell]:
    """LoRA with checkpointing, and ours: both with our allocator and attention."""
    ours = usual("response", 1024, "float32", run=run)
    return given_ours("lora+checkpointing", 1024, "float32", run=run), ours


def with_allocator(name: str, dtype: str) -> Cell:
    """LARS started with that allocator."""
    return usual("response", ALLOCATOR_CONTEXT, dtype, allocator=name)


def goal_cells() -> Iterator[Cell]:
    """All cells of the claims: peaks once (they repeat to a megabyte), times in pairs A B A B; the dearest last."""
    yield from (INFERENCE_4096, RESPONSE_4096, TOKEN_TERM_4096, PUBLISHED_2048)
    yield from (response(context) for context in (SHORT, LONG, 2048))
    yield from (lora(method, stock=stock) for method in ("lora", CHECKPOINTED) for stock in (True, False))
    for run in range(TIMED_PAIRS):
        yield from timed_pair(run)
    yield from (with_allocator(name, dtype) for dtype in ALLOCATOR_DTYPES for name in available())
    yield from (QWEN_256, LLAMA_4096)


Values = Callable[[Newest], list[float]]  # of records by key; raises KeyError where a cell was not measured, or failed


def memory_rows(records: Newest) -> list[Row]:
    """Every row whose cells were measured."""
    rows = []
    for name, values in FIGURES.items():
        with suppress(KeyError):
            rows.append((name, values(records), {}))
    for dtype, (name, allocator) in product(ALLOCATOR_DTYPES, ALLOCATORS.items()):
        words = {"name": name, "dtype": dtype, "label": allocator.label, "context": ALLOCATOR_CONTEXT}
        with suppress(KeyError):
            cell = with_allocator(name, dtype)
            rows.append(("allocator_{name}_peak_mib_{dtype}", [_peak(records, cell) / MIB], words))
            rows.append(("allocator_{name}_step_s_{dtype}", [records[cell.key]["seconds"]], words))
    return [claimed(name, values, **words) for name, values, words in rows]


def _peak(records: Newest, cell: Cell) -> float:
    """Peak resident bytes of the whole process once the model was loaded, program and weights included."""
    return float(records[cell.key]["peak_bytes"])


def _over(cell: Cell, other: Cell) -> Values:
    return lambda records: [_peak(records, cell) / _peak(records, other)]


def _below(cell: Cell, other: Cell) -> Values:
    """How far below `other` the cell's peak is. PEFT's LoRA has r 8, all linear layers, and the reply's loss alone."""
    return lambda records: [1 - _peak(records, cell) / _peak(records, other)]


def _growth(records: Newest) -> list[float]:
    grown = _peak(records, response(LONG)) - _peak(records, response(SHORT))
    return [grown / (KEY_VALUE_BYTES * (LONG - SHORT))]


def _speedup(records: Newest) -> list[float]:
    pairs = [[records[cell.key]["seconds"] for cell in timed_pair(run)] for run in range(TIMED_PAIRS)]
    return [slow / fast for slow, fast in pairs]


def _above_weights(records: Newest) -> list[float]:
    return [(_peak(records, QWEN_256) - records[QWEN_256.key]["loaded_bytes"]) / MB]


def _limited_peak(records: Newest) -> list[float]:
    """Includes the loading: the process has to live through it under the limit."""
    return [max(_peak(records, LLAMA_4096), records[LLAMA_4096.key]["load_peak_bytes"]) / MIB]


FIGURES: Mapping[str, Values] = {
    "train_over_inference_peak_ctx4096_bf16": _over(RESPONSE_4096, INFERENCE_4096),
    "train_over_inference_peak_ctx4096_bf16_with_token_term": _over(TOKEN_TERM_4096, INFERENCE_4096),
    **{
        f"reduction_vs_lora_{name}_ctx2048{suffix}": _below(response(2048), lora(method, stock=not suffix))
        for name, method in (("plain", "lora"), ("checkpointed_chunked", CHECKPOINTED))
        for suffix in ("", "_given_our_allocator_and_attention")
    },
    "growth_over_kv_growth_ctx1024_to_8192": _growth,
    "sequence_mode_reduction_vs_lora_plain_ctx2048": _below(PUBLISHED_2048, lora("lora", stock=False)),
    "step_speedup_vs_lora_checkpointed_ctx1024": _speedup,
    "mb_above_weights_qwen2.5_0.5b_seq256": _above_weights,
    "llama3.2_1b_int4_ctx4096_peak_mib": _limited_peak,
}


def memory_runs(cells: Iterable[Cell], models: Path, time_limit_s: float) -> dict[str, Callable[[], Record]]:
    """The run of each cell by its key. Raises LarsError where a model cannot be had."""
    ready = cache(partial(ready_model, models=models))  # each model is made ready once

    def run(cell: Cell) -> Record:
        return measure(cell, ready(cell.model, cell.dtype, cell.device), time_limit_s)

    return {cell.key: partial(run, cell) for cell in cells}


def grid(methods: Sequence[str], contexts: Sequence[int], dtypes: Sequence[str], **more: Any) -> Iterator[Cell]:
    """Yield every method at every context in every dtype, as its users run it; the cheapest first."""
    for context, dtype, method in product(sorted(contexts), dtypes, methods):
        yield usual(method, context, dtype, **more)


def describe(record: Record) -> str:
    """A measured cell as a line for the terminal."""
    name = "{model} {method} {context:,} {dtype} {allocator}".format(**record)
    if FAILED in record:
        return f"{name:64} {record[FAILED]}"
    above = record["peak_bytes"] - record["loaded_bytes"]
    figures = f"{record['peak_bytes'] / MB:7,.0f} MB, {above / MB:7,.0f} above the model"
    return f"{name:64} {figures}, {record['seconds']:7.2f} s"


CELLS = Store(
    "memory-cells.jsonl",
    key=lambda record: Cell.from_record(record).key,
    rows=memory_rows,
    plots=lambda newest, folder: plot_memory(list(newest.values()), folder),
    describe=describe,
)
