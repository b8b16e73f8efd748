"""One cell of the memory bench, in a process of its own: `python -m bench.memory.child FOLDER '{"method": ..., ...}'`.

Reports on stdout, a JSON line each: `loaded` once the model is opened and touched, `watched` when only timed steps are
left (the sampling process should stop: reading the maps delays this one), and `done` with the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.memory.cell import METHODS, Cell
from bench.memory.process import footprint
from bench.suite import from_record
from lars_agent.memory.allocator import give_back
from lars_agent.memory.measure import peak_rss_bytes, reset_peak
from lars_agent.models.open import OpenedModel, open_model, precision
from lars_agent.training.batches import Encoded

WATCHED_STEPS = 2  # the optimizer makes its state at the end of the first: the second is the whole of it
PAGE_BYTES = 4096
FIRST_PLAIN_ID = 100  # those below are often special


def main() -> None:
    folder, cell = Path(sys.argv[1]), from_record(Cell, json.loads(sys.argv[2]))
    torch.set_num_threads(cell.threads or os.cpu_count() or 1)
    opened = opened_for(cell, folder)
    load_peak = peak_rss_bytes()
    if not reset_peak():
        sys.stderr.write("the peak cannot be reset here: it includes the loading\n")
    loaded, on_gpu = footprint(os.getpid()), dict[str, int]()
    if cell.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        on_gpu["cuda_loaded_bytes"] = torch.cuda.memory_allocated()
    report("loaded", **loaded)
    with nullcontext() if cell.device == "cpu" else torch.device(cell.device):
        seconds = run(cell, prepared(cell, opened))
    figures = {"load_peak_bytes": load_peak, "peak_bytes": peak_rss_bytes(), "loaded_bytes": loaded["rss"]}
    if cell.device != "cpu":
        on_gpu["cuda_peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        on_gpu["cuda_peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    report("done", **figures, **seconds, **on_gpu, sha256=opened.sha256)


def opened_for(cell: Cell, folder: Path) -> OpenedModel:
    """Open the model in the cell's dtype on its device, make all weights resident, and run one token through it.

    After that token the memory that operators take at their first call is allocated.
    """
    opened = open_model(folder, *precision(cell.dtype))
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
    """Seconds of all steps, and the median of the unwatched ones (of the last one where all were watched)."""
    seconds: list[float] = []
    for number in range(cell.steps):
        if number == WATCHED_STEPS:
            report("watched")
        started = time.perf_counter()
        step()
        if cell.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    timed = seconds[WATCHED_STEPS:] or seconds[-1:]
    return {"seconds": round(statistics.median(timed), 4), "step_seconds": [round(value, 4) for value in seconds]}


def report(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
