"""Rounds of all contenders, one after the other, each run in a process of its own: what is compared is paired."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.contenders import CONTENDERS, LLAMACPP, PROMPT_TOKENS, Contender
from bench.llamacpp import LlamaCpp
from lars_agent.errors import LarsError
from lars_agent.memory.allocator import thrifty_environment

THREADS = (1, 2)
Run = dict[str, Any]


def speed_runs(model: Path, cache: Path, rounds: int, threads: Sequence[int] = THREADS) -> Iterator[Run]:
    """One record for each contender in each round: tokens a second while reading, and while replying."""
    llamacpp, flash = LlamaCpp(cache, model, lambda words: None), {}
    for number in range(rounds):
        for count in threads:
            for contender in CONTENDERS:
                if contender == LLAMACPP:
                    if count not in flash:
                        flash[count] = _better(llamacpp, count)
                    figures = llamacpp.figures(count, flash=flash[count])
                else:
                    figures = torch_figures(model, contender, count)
                yield _record(contender, count, number, figures)


def torch_figures(model: Path, contender: Contender, threads: int) -> dict[str, Any]:
    """Seconds of one run in a process of its own, started as the daemon starts its engine. Raises LarsError."""
    return figures_of("bench.speed_run", [str(model), contender.name], threads)


def figures_of(module: str, arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """What a module prints that is run with `arguments` and its thread count, as the engine is. Raises LarsError."""
    command = [sys.executable, "-P", "-m", module, *arguments, str(threads)]
    environment = {**thrifty_environment(os.environ), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LarsError(f"{module} {arguments[-1]} failed: {said}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _better(llamacpp: LlamaCpp, threads: int) -> bool:
    """Whether llama.cpp replies faster here with flash attention."""
    without, with_it = (llamacpp.figures(threads, flash=flash)["reply_s"] for flash in (False, True))
    return bool(with_it < without)


def _record(contender: Contender, threads: int, number: int, figures: dict[str, Any]) -> Run:
    return {
        "contender": contender.name,
        "threads": threads,
        "round": number,
        "prefill_tokens_s": round(PROMPT_TOKENS / figures.pop("prompt_s"), 2),
        "decode_tokens_s": round((figures["tokens"] - 1) / figures.pop("reply_s"), 2),
        **figures,
    }
