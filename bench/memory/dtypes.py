"""What it costs that `model.dtype = "auto"` chooses: a training step and a token of each dtype, in turn."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.child import call
from bench.record import Row, claimed
from bench.serve.speed import PROMPT_TOKENS, REPLY_TOKENS
from lars_agent.memory.allocator import torch_environment

AUTO, OTHERS = "auto", ("float32", "bfloat16")
CONTEXT, REPLY, STEPS, THREADS = 256, 64, 6, 1
# oneDNN and torch as on a processor of before 2020, whatever this one has: bfloat16 is emulated.
PLACES: Mapping[str, Mapping[str, str]] = {
    "here": {},
    "without_bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}


def dtype_runs(model: Path, rounds: int) -> dict[str, list[dict[str, dict[str, float]]]]:
    """In each of `PLACES`, round by round, the seconds of each dtype's training step and token."""
    environment = torch_environment(os.environ, THREADS)
    return {
        place: [
            {
                dtype: call(f"{__name__}.costs", model, dtype, environment=environment | set_)
                for dtype in (AUTO, *OTHERS)
            }
            for _ in range(rounds)
        ]
        for place, set_ in PLACES.items()
    }


def costs(model: str, dtype: str) -> dict[str, Any]:
    """Seconds of a step (prompt 256, reply 64), and of a token of a reply; what it computes in, and resident bytes."""
    import torch

    from bench.memory.cell import usual
    from bench.memory.child import opened_for, prepared, run
    from bench.serve.child import BASE, generate, text_of
    from lars_agent.memory.measure import rss_bytes
    from lars_agent.runtime.engine import Engine
    from lars_agent.store.adapters import AdapterStore

    torch.set_num_threads(THREADS)
    cell = usual("response", CONTEXT, dtype, reply=REPLY, steps=STEPS, threads=THREADS)
    opened = opened_for(cell, Path(model))
    loaded_bytes = rss_bytes()
    engine = Engine(opened, AdapterStore(Path(tempfile.mkdtemp())), threads=THREADS, prefix_bytes=0)
    text = text_of(opened.tokenizer, PROMPT_TOKENS)
    generate(engine, text, BASE, REPLY_TOKENS // 8)  # chooses kernels
    made = generate(engine, text, BASE, REPLY_TOKENS)
    engine.close()
    step = run(cell, prepared(cell, opened))
    return {
        "step_s": step["seconds"],
        "token_s": made.reply_s / (made.generated_tokens - 1),
        "prompt_s": made.prompt_s,
        "computes_in": str(opened.model.dtype),
        "loaded_bytes": loaded_bytes,
    }


def dtype_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    """The seconds of what is chosen, over the least of the other dtypes, in the same round."""
    for place, rounds in found.items():
        suffix = "" if place == "here" else f"_{place}"
        for name, figure in (("training", "step_s"), ("serving", "token_s")):
            regrets = [one[AUTO][figure] / min(one[dtype][figure] for dtype in OTHERS) for one in rounds]
            chosen = rounds[-1][AUTO]["computes_in"].removeprefix("torch.")
            yield claimed(f"dtype_regret_{name}{suffix}", regrets, chosen=chosen, threads=THREADS)
        held = [one[AUTO]["loaded_bytes"] / one["float32"]["loaded_bytes"] for one in rounds]
        yield claimed(f"dtype_resident_over_float32{suffix}", held)
