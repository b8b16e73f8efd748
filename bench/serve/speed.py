"""Speed of our engine, transformers and llama.cpp: rounds of all contenders, each run in a process of its own."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from shutil import which
from typing import Any

from bench.child import call, run
from lars_agent.errors import LarsError
from lars_agent.memory.allocator import torch_environment

THREADS = (1, 2)
PROMPT_TOKENS, REPLY_TOKENS = 451, 128
ENGINE_RUNS = (("int4", 2), ("bfloat16", 2))
PACKAGE = "node-llama-cpp@3.22.1"
SCRIPT = Path(__file__).with_name("llamacpp.mjs")
OURS = {f"ours_{dtype}": dtype for dtype in ("int4", "int8", "bfloat16", "float32")}  # our precision by name in rows
LLAMACPP, TRANSFORMERS = "llamacpp_q4", "transformers_bfloat16"
CONTENDERS = (*OURS, LLAMACPP, TRANSFORMERS)


def speed_runs(model: Path, cache: Path, rounds: int) -> list[dict[str, Any]]:
    """One record for each contender in each round: tokens a second of the prompt, and of the reply."""
    llamacpp, found = LlamaCpp(cache, model), []
    for number, threads, contender in product(range(rounds), THREADS, CONTENDERS):
        in_python = contender != LLAMACPP
        figures = _figures("speed", threads, model, contender) if in_python else llamacpp.figures(threads)
        speeds = {
            "prefill_tokens_s": round(PROMPT_TOKENS / figures.pop("prompt_s"), 2),
            "decode_tokens_s": round((figures["tokens"] - 1) / figures.pop("reply_s"), 2),
        }
        found.append({"contender": contender, "threads": threads, "round": number, **speeds, **figures})
    return found


def engine_runs(model: Path) -> list[dict[str, Any]]:
    """The cost of adapters and of warm prefixes, for each precision and thread count of `ENGINE_RUNS`."""
    return [
        {"dtype": dtype, "threads": threads, **_figures("engine", threads, model, dtype)}
        for dtype, threads in ENGINE_RUNS
    ]


def grammar_runs(model: Path, rounds: int) -> dict[str, Any]:
    """Replies held to a schema and free ones, in turn."""
    dtype, threads = ENGINE_RUNS[0]
    environment = torch_environment(os.environ, threads)
    replies = call("bench.serve.structured.grammar", model, dtype, rounds, threads, environment=environment)
    return {"dtype": dtype, "threads": threads, "replies": replies}


def contended_runs(model: Path, rounds: int) -> dict[str, Any]:
    """Replies with the engine's own choice of threads and with fixed numbers, alone and beside a busy loop a core."""
    dtype, threads = "bfloat16", os.cpu_count() or 1
    environment = torch_environment(os.environ, threads)
    found = call("bench.serve.contended.contended", model, dtype, threads, rounds, environment=environment)
    return {"dtype": dtype, "threads": threads, "loops": threads, **found}


def _figures(function: str, threads: int, *arguments: object) -> dict[str, Any]:
    """The figures of a function of `bench.serve.child`, started as the daemon starts its engine. Raises LarsError."""
    environment = torch_environment(os.environ, threads)
    return dict(call(f"bench.serve.child.{function}", *arguments, threads, environment=environment))


class LlamaCpp:
    """llama.cpp as npm builds it (`node-llama-cpp`), on the GGUF file that the default model was made from.

    The program and its model are fetched to `cache` where they are missing. Raises LarsError without node.
    """

    def __init__(self, cache: Path, model: Path) -> None:
        if which("npm") is None or which("node") is None:
            raise LarsError("llama.cpp is run by node, which is not installed")
        folder = cache / "llamacpp"
        self._module, self._gguf = folder / "node_modules/node-llama-cpp/dist/index.js", folder / "model.gguf"
        folder.mkdir(parents=True, exist_ok=True)
        if not self._module.exists():
            options = ["--prefix", str(folder), "--ignore-scripts", "--no-audit"]
            run(["npm", "install", *options, PACKAGE], f"the installation of {PACKAGE}")
        if not self._gguf.exists():
            call("bench.serve.child.gguf", folder / "downloads", self._gguf)
        self._prompts = json.dumps(call("bench.serve.child.prompts", model))
        self._flash: dict[int, bool] = {}

    def figures(self, threads: int) -> dict[str, Any]:
        """Seconds of one run, with flash attention where that is faster on this machine."""
        if threads not in self._flash:
            without, with_it = (self._run(threads, flash=flash)["reply_s"] for flash in (False, True))
            self._flash[threads] = bool(with_it < without)
        return self._run(threads, flash=self._flash[threads])

    def _run(self, threads: int, *, flash: bool) -> dict[str, Any]:
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LLAMACPP_FLASH": str(int(flash))}
        command = ["node", str(SCRIPT), str(self._module), str(self._gguf), str(threads), self._prompts]
        return dict(json.loads(run([*command, str(REPLY_TOKENS)], "llama.cpp", environment)))
