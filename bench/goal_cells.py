"""The cells that the goals' rows are made of."""

from __future__ import annotations

from collections.abc import Iterator

from bench.allocators import available
from bench.cell import Cell
from bench.methods import SMALL, given_ours, usual

CHECKPOINTED = "lora+checkpointing+chunked"
TIMED_PAIRS = 3
GROWTH_CONTEXTS = (1024, 8192)

INFERENCE_4096 = usual("inference", 4096, "bfloat16")
RESPONSE_4096 = usual("response", 4096, "bfloat16")
TOKEN_TERM_4096 = usual("response+token", 4096, "bfloat16")
PUBLISHED_2048 = usual("sequence+plain", 2048, "float32")
TIGHTEST = {**SMALL, "mlp_tile": 32, "loss_chunk": 4, "prompt_chunk": 64}
QWEN_256 = usual("response", 128, "bfloat16", model="qwen2.5-0.5b", rank=8, plan=TIGHTEST)
LLAMA_4096 = usual("response", 4096, "int4", model="llama-3.2-1b", rank=8, plan=SMALL, steps=20, limit_bytes=3 * 2**29)
ALLOCATOR_CONTEXT, ALLOCATOR_DTYPES = 2048, ("bfloat16", "float32")


def response(context: int) -> Cell:
    return usual("response", context, "float32")


def lora(method: str, *, stock: bool) -> Cell:
    """PEFT at context 2,048, as its users run it or given our allocator and attention."""
    return (usual if stock else given_ours)(method, 2048, "float32")


def timed_pair(run: int) -> tuple[Cell, Cell]:
    """LoRA with checkpointing, and ours: both with our allocator and attention."""
    return (
        given_ours("lora+checkpointing", 1024, "float32", run=run),
        usual("response", 1024, "float32", run=run),
    )


def with_allocator(name: str, dtype: str) -> Cell:
    return usual("response", ALLOCATOR_CONTEXT, dtype, allocator=name)


def goal_cells() -> Iterator[Cell]:
    """All of them, peaks once (they repeat to a megabyte), times in pairs: A B A B. The dearest come last."""
    yield from (INFERENCE_4096, RESPONSE_4096, TOKEN_TERM_4096, PUBLISHED_2048)
    yield from (response(context) for context in (*GROWTH_CONTEXTS, 2048))
    yield from (lora(method, stock=stock) for method in ("lora", CHECKPOINTED) for stock in (True, False))
    for run in range(TIMED_PAIRS):
        yield from timed_pair(run)
    yield from (with_allocator(name, dtype) for dtype in ALLOCATOR_DTYPES for name in available())
    yield from (QWEN_256, LLAMA_4096)
