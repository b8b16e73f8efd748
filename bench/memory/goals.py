"""The cells of the memory bench: those that the goals need, their runs, and the rows made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, product
from typing import Any

from bench.memory.cell import ALLOCATORS, PLANS, Cell, available, given_ours, usual
from bench.plots import plot_memory
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from lars_agent.records import from_json

MIB, MB = 2**20, 10**6
KEY_VALUE_BYTES = 2 * 30 * 192 * 4  # of one token: keys and values of the default model's 30 layers in float32
CHECKPOINTED = "lora+checkpointing+chunked"
SHORT, LONG = 1024, 8192
EPOCHS, RUNS = 5, range(3, 6)

INFERENCE_4096 = usual("inference", 4096, "bfloat16")
LARS_2048, LARS_LONG, LARS_SHORT = (usual("response", context, "float32") for context in (2048, LONG, SHORT))
# A job that keeps its prompts, of one example.
with_kept_prompts = partial(
    usual, "response", dtype="float32", steps=EPOCHS, plan={**PLANS["small"], "kept_prompts": 1}
)
# In turn: LoRA with our allocator and attention, ours, and ours with next to no prompt.
LORA, KEPT, REPLY_ONLY = (
    [build(run=run) for run in RUNS]
    for build in (
        partial(given_ours, "lora+checkpointing", SHORT, "float32"),
        partial(with_kept_prompts, SHORT),
        partial(with_kept_prompts, 2),
    )
)
QWEN_256 = usual("response", 128, "bfloat16", model="qwen2.5-0.5b", rank=8, plan=PLANS["tightest"])
LLAMA_4096 = usual(
    "response", 4096, "int4", model="llama-3.2-1b", rank=8, plan=PLANS["small"], steps=20, limit_bytes=3 * 2**29
)
ALLOCATOR_CONTEXT, ALLOCATOR_DTYPES = 2048, ("bfloat16", "float32")
with_allocator = partial(usual, "response", ALLOCATOR_CONTEXT)  # LARS, of a dtype, started with an `allocator`
Values = Callable[..., list[float]]  # of the records of cells


def _over(cell: Record, other: Record) -> list[float]:
    """Of peak resident bytes of the whole process once the model was loaded, program and weights included."""
    return [cell["peak_bytes"] / other["peak_bytes"]]


def _below(cell: Record, other: Record) -> list[float]:
    """How far below `other` the cell's peak is. PEFT's LoRA has r 8, all linear layers, and the reply's loss alone."""
    return [1 - cell["peak_bytes"] / other["peak_bytes"]]


def _growth(long: Record, short: Record) -> list[float]:
    return [(long["peak_bytes"] - short["peak_bytes"]) / (KEY_VALUE_BYTES * (LONG - SHORT))]


def _job_speedup(*cells: Record) -> list[float]:
    """LoRA's job over ours, whose first step reads the prompt and warms up; LoRA's steps are all alike."""
    pairs = zip(cells[::2], cells[1::2], strict=True)
    return [EPOCHS * slow["seconds"] / sum(fast["step_seconds"][:EPOCHS]) for slow, fast in pairs]


def _later_epoch(*cells: Record) -> list[float]:
    return [whole["seconds"] / reply["seconds"] for whole, reply in zip(cells[::2], cells[1::2], strict=True)]


# The values of each row, and the cells they are made of. PEFT is as its users run it, or given what we have.
ROWS: Mapping[str, tuple[Values, Sequence[Cell]]] = {
    "train_over_inference_peak_ctx4096_bf16": (_over, [usual("response", 4096, "bfloat16"), INFERENCE_4096]),
    "train_over_inference_peak_ctx4096_bf16_with_token_term": (
        _over,
        [usual("response+token", 4096, "bfloat16"), INFERENCE_4096],
    ),
    **{
        f"reduction_vs_lora_{name}_ctx2048{suffix}": (_below, [LARS_2048, build(method, 2048, "float32")])
        for name, method in (("plain", "lora"), ("checkpointed_chunked", CHECKPOINTED))
        for suffix, build in (("", usual), ("_given_our_allocator_and_attention", given_ours))
    },
    "growth_over_kv_growth_ctx1024_to_8192": (_growth, [LARS_LONG, LARS_SHORT]),
    "sequence_mode_reduction_vs_lora_plain_ctx2048": (
        _below,
        [usual("sequence+plain", 2048, "float32"), given_ours("lora", 2048, "float32")],
    ),
    "step_speedup_vs_lora_checkpointed_ctx1024": (_job_speedup, [*chain(*zip(LORA, KEPT, strict=True))]),
    "epoch2_over_reply_only_ctx1024": (_later_epoch, [*chain(*zip(KEPT, REPLY_ONLY, strict=True))]),
    "mb_above_weights_qwen2.5_0.5b_seq256": (
        lambda cell: [(cell["peak_bytes"] - cell["loaded_bytes"]) / MB],
        [QWEN_256],
    ),
    # The loading included: the process has to live through it under the limit.
    "llama3.2_1b_int4_ctx4096_peak_mib": (
        lambda cell: [max(cell["peak_bytes"], cell["load_peak_bytes"]) / MIB],
        [LLAMA_4096],
    ),
}


def goal_cells() -> Iterator[Cell]:
    """All cells of the claims: peaks once (they repeat to a megabyte), times in pairs A B A B; the dearest last."""
    yield from (with_allocator(dtype, allocator=name) for dtype in ALLOCATOR_DTYPES for name in available())
    for _, cells in ROWS.values():
        yield from cells


def memory_rows(records: Newest) -> list[Row]:
    """Every row whose cells were measured: a record that failed has no figures."""
    rows = []
    for name, (values, cells) in ROWS.items():
        with suppress(KeyError):
            rows.append((name, values(*(records[cell.key] for cell in cells)), {}))
    for dtype, (name, allocator) in product(ALLOCATOR_DTYPES, ALLOCATORS.items()):
        words = {"name": name, "dtype": dtype, "label": allocator.label, "context": ALLOCATOR_CONTEXT}
        with suppress(KeyError):
            found = records[with_allocator(dtype, allocator=name).key]
            rows.append(("allocator_{name}_peak_mib_{dtype}", [found["peak_bytes"] / MIB], words))
            rows.append(("allocator_{name}_step_s_{dtype}", [found["seconds"]], words))
    return [claimed(name, values, **words) for name, values, words in rows]


def grid(methods: Sequence[str], contexts: Sequence[int], dtypes: Sequence[str], **more: Any) -> Iterator[Cell]:
    """Yield every method at every context in every dtype, as its users run it; the cheapest first."""
    for context, dtype, method in product(sorted(contexts), dtypes, methods):
        yield usual(method, context, dtype, **more)


CELLS = Store(
    "memory-cells.jsonl",
    key=lambda record: from_json(Cell, record).key,
    rows=memory_rows,
    plots=lambda newest, folder: plot_memory(list(newest.values()), folder),
    shown=("model", "method", "context", "dtype", "allocator", "peak_bytes", "loaded_bytes", "seconds"),
)
