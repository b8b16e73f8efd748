"""A training step and a token of each dtype, in turn: what `auto` chooses, and what share of the machine they reach."""

from __future__ import annotations

import os
import tempfile
import timeit
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.child import call
from bench.record import Row, claimed
from bench.serve.speed import PROMPT_TOKENS, REPLY_TOKENS
from lars_agent.memory.allocator import torch_environment

AUTO, OTHERS = "auto", ("float32", "bfloat16")
CONTEXT, REPLY, STEPS, THREADS = 256, 64, 6, 1
REPEATS, COPIED = 5, 2**28  # bytes
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
    cell = usual("response+token", CONTEXT, dtype, reply=REPLY, steps=STEPS, threads=THREADS, plan={})
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
        "products_s": products_s(opened.model),
        "weight_bytes": sum(tensor.nbytes for tensor in [*opened.model.parameters(), *opened.model.buffers()]),
        "copied_bytes_s": copied_bytes_s(),
    }


def products_s(model: Any) -> float:
    """Seconds of the products that a step cannot do without, bare: the prompt's, the reply's, and their gradients."""
    import torch
    from torch import nn

    from lars_agent.ops.decoder_layers import decoder_layers

    layers = [one for layer in decoder_layers(model).values() for one in layer.modules() if isinstance(one, nn.Linear)]
    shapes = Counter((one.out_features, one.in_features) for one in layers)
    head, total = (model.config.vocab_size, model.config.hidden_size), 0.0
    with torch.no_grad():
        for (outputs, inputs), count in [*shapes.items(), (head, 1)]:
            weight = torch.randn(outputs, inputs).to(model.dtype)
            rows, errors = (torch.randn(CONTEXT, size).to(model.dtype) for size in (inputs, outputs))
            prompt = 0.0 if (outputs, inputs) == head else _least_s(lambda: rows @ weight.T)  # noqa: B023
            total += count * (prompt + _least_s(lambda: rows[:REPLY] @ weight.T))  # noqa: B023
            total += count * _least_s(lambda: errors[:REPLY] @ weight)  # noqa: B023
    return total


def copied_bytes_s() -> float:
    """Bytes a second that are copied from memory to memory, more of them than caches hold."""
    import torch

    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    return COPIED / _least_s(lambda: target.copy_(source))


def _least_s(work: Callable[[], Any]) -> float:
    return min(timeit.repeat(work, number=1, repeat=REPEATS))


def dtype_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    """The seconds of what is chosen, over the least of the other dtypes, in the same round."""
    for place, rounds in found.items():
        suffix = "" if place == "here" else f"_{place}"
        for name, figure in (("training", "step_s"), ("serving", "token_s")):
            regrets = [one[AUTO][figure] / min(one[dtype][figure] for dtype in OTHERS) for one in rounds]
            chosen = rounds[-1][AUTO]["computes_in"].removeprefix("torch.")
            yield claimed(f"dtype_regret_{name}{suffix}", regrets, chosen=chosen, threads=THREADS)
        shares = [one[AUTO]["products_s"] / one[AUTO]["step_s"] for one in rounds]
        yield claimed(f"step_share_of_products{suffix}", shares, chosen=chosen)
        read = [one[AUTO]["weight_bytes"] / one[AUTO]["token_s"] / one[AUTO]["copied_bytes_s"] for one in rounds]
        yield claimed(f"decode_share_of_copy_rate{suffix}", read, chosen=chosen)
        held = [one[AUTO]["loaded_bytes"] / one["float32"]["loaded_bytes"] for one in rounds]
        yield claimed(f"dtype_resident_over_float32{suffix}", held)
