"""One cell of the memory bench, in a process of its own: `python -m bench.memory_cell FOLDER '{"method": ..., ...}'`.

Says on stdout, a JSON line each: `loaded` once the model is opened and touched, `watched` when only timed steps are
left (whoever samples this process should stop: reading its maps holds it up), and `done` with the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.cell import Cell
from bench.footprint import Footprint, footprint_of
from bench.methods import METHODS
from bench.opening import opened_for
from lars_agent.memory.measure import peak_rss_bytes, reset_peak, rss_bytes
from lars_agent.models.open import OpenedModel

WATCHED_STEPS = 2  # an optimizer makes its state at the end of the first: the second is the whole of it


def main() -> None:
    folder, cell = Path(sys.argv[1]), Cell.from_record(json.loads(sys.argv[2]))
    torch.set_num_threads(cell.threads or os.cpu_count() or 1)
    opened = opened_for(cell, folder)
    load_peak = peak_rss_bytes()
    if not reset_peak():
        sys.stderr.write("the peak cannot be reset here: it includes the loading\n")
    loaded = footprint_of(os.getpid()) or Footprint(rss_bytes())
    on_device = loaded_on_gpu(cell)
    say("loaded", **asdict(loaded))
    with nullcontext() if cell.device == "cpu" else torch.device(cell.device):
        seconds = run(cell, prepared(cell, opened))
    figures = {"load_peak_bytes": load_peak, "peak_bytes": peak_rss_bytes(), "loaded_bytes": loaded.rss}
    say("done", **figures, **seconds, **on_device, **peaks_on_gpu(cell), sha256=opened.sha256)


def prepared(cell: Cell, opened: OpenedModel) -> Callable[[], None]:
    """One step of the cell's method."""
    kind = METHODS[cell.method].kind
    if kind == "peft":
        from bench.peft_step import peft_step  # PEFT's modules are in no other cell's memory

        return peft_step(cell, opened)
    from bench.lars_step import inference_step, lars_step

    return inference_step(cell, opened) if kind == "inference" else lars_step(cell, opened)


def run(cell: Cell, step: Callable[[], None]) -> dict[str, Any]:
    """Seconds of all steps, and the median of those that nobody watched (of the last one where all were watched)."""
    seconds: list[float] = []
    for number in range(cell.steps):
        if number == WATCHED_STEPS:
            say("watched")
        started = time.perf_counter()
        step()
        if cell.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    timed = seconds[WATCHED_STEPS:] or seconds[-1:]
    return {"seconds": round(statistics.median(timed), 4), "step_seconds": [round(value, 4) for value in seconds]}


def loaded_on_gpu(cell: Cell) -> dict[str, int]:
    """What the device holds of the model; its peaks count from here on."""
    if cell.device == "cpu":
        return {}
    torch.cuda.reset_peak_memory_stats()
    return {"cuda_loaded_bytes": torch.cuda.memory_allocated()}


def peaks_on_gpu(cell: Cell) -> dict[str, int]:
    """The most that was in use on the device, and that torch had taken for itself."""
    if cell.device == "cpu":
        return {}
    return {
        "cuda_peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "cuda_peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def say(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
