"""One cell of the memory bench, for `bench.child.call`: every cell runs in a process of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.memory.cell import METHODS, Cell
from lars_agent.errors import LarsError
from lars_agent.memory.allocator import give_back
from lars_agent.memory.measure import peak_rss_bytes, reset_peak, rss_bytes
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.records import from_json
from lars_agent.training.batches import Encoded

WARM_UP_STEPS = 2  # the optimizer makes its state at the end of the first: the second is the whole of it
PAGE_BYTES = 4096
FIRST_PLAIN_ID = 100  # those below are often special


def measured(folder: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the cell on the model in `folder`: bytes, and seconds a step. Raises LarsError."""
    cell = from_json(Cell, record)
    torch.set_num_threads(cell.threads or os.cpu_count() or 1)
    opened = opened_for(cell, Path(folder))
    load_peak, on_gpu = peak_rss_bytes(), dict[str, int]()
    if not reset_peak():
        raise LarsError("the peak cannot be reset here: it would include the loading")
    figures = {"load_peak_bytes": load_peak, "loaded_bytes": rss_bytes()}
    if cell.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        on_gpu["cuda_loaded_bytes"] = torch.cuda.memory_allocated()
    with nullcontext() if cell.device == "cpu" else torch.device(cell.device):
        seconds = run(cell, prepared(cell, opened))
    if cell.device != "cpu":
        on_gpu["cuda_peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        on_gpu["cuda_peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    return {**figures, "peak_bytes": peak_rss_bytes(), **seconds, **on_gpu, "sha256": opened.sha256}


def opened_for(cell: Cell, folder: Path) -> OpenedModel:
    """Open the model in the cell's dtype on its device, make all weights resident, and run one token through it.

    After that token the memory that operators take at their first call is allocated.
    """
    opened = open_model(folder, *precision(cell.dtype, folder))
    if cell.attention == "transformers":
        opened.model.set_attn_implementation("sdpa")
    if cell.device != "cpu":
        opened.model.to(cell.device)
    touch(opened.model)
    with torch.no_grad():
        opened.model(torch.ones(1, 1, dtype=torch.long, device=cell.device))
    give_back()
    return opened


def touch(model: nn.Module) -> None:
    """Read every page of the weights, so that mapped files are resident as they will be while computing."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_contiguous() and tensor.device.type == "cpu" and tensor.numel():
            tensor.detach().reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()


def prepared(cell: Cell, opened: OpenedModel) -> Callable[[], None]:
    """One step of the cell's method."""
    kind, example = METHODS[cell.method].kind, random_example(cell, opened.model.config.vocab_size)
    if kind == "peft":
        from bench.memory.peft_step import peft_step  # PEFT's modules are in no other cell's memory

        return peft_step(cell, opened, example)
    from bench.memory.lars_step import inference_step, lars_step

    return (inference_step if kind == "inference" else lars_step)(cell, opened, example)


def random_example(cell: Cell, vocabulary: int) -> Encoded:
    """The one example that all of the cell's steps learn, of its lengths; the same for every method."""
    generator = torch.Generator("cpu").manual_seed(0)
    prompt, reply = (
        torch.randint(FIRST_PLAIN_ID, vocabulary, (count,), generator=generator, device="cpu").tolist()
        for count in (cell.context, cell.reply)
    )
    return Encoded(tuple(prompt), tuple(reply), 1.0, "random")


def run(cell: Cell, step: Callable[[], None]) -> dict[str, Any]:
    """Seconds of all steps, and the median of those after the first two (of the last one where there are no more)."""
    seconds: list[float] = []
    for _ in range(cell.steps):
        started = time.perf_counter()
        step()
        if cell.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    timed = seconds[WARM_UP_STEPS:] or seconds[-1:]
    return {"seconds": round(statistics.median(timed), 4), "step_seconds": [round(value, 4) for value in seconds]}
