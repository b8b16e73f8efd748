"""Replies beside programs that want the cores too: the engine's own choice of threads next to fixed numbers of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.serve.child import BASE, Figures, generate, text_of
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import open_model
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.thread_policy import ThreadPolicy
from lars_agent.store.adapters import AdapterStore

PROMPT_TOKENS, REPLY_TOKENS = 120, 64
SETTLE_S = 2.0  # after the loops began or ended
LOOP = "while True: pass"


class FixedThreads(ThreadPolicy):
    """The same number of threads always."""

    def for_prompt(self) -> int:
        """Return that number."""
        return self.most

    def for_step(self, size: int) -> int:
        """Return that number."""
        return self.most


def contended(model: str, dtype: str, threads: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Tokens a second of `chosen` and each of `fixed`, 1 and `threads`, in turn: `calm` and with `threads` loops."""
    torch.set_num_threads(1)  # see `Engine`
    opened = open_model(Path(model), *precision(dtype, Path(model)))
    made = Engine(opened, AdapterStore(Path(tempfile.mkdtemp())), parallel=1, prefix_bytes=0)
    text = text_of(opened.tokenizer, PROMPT_TOKENS)
    chosen, fixed = made.threads, [FixedThreads(count) for count in sorted({1, threads})]

    def reply(policy: ThreadPolicy) -> Figures:
        made.threads = policy
        done = generate(made, text, BASE, REPLY_TOKENS)
        return {
            "prefill_tokens_s": PROMPT_TOKENS / done.prompt_s,
            "decode_tokens_s": (done.generated_tokens - 1) / done.reply_s,
        }

    def measured() -> list[dict[str, Any]]:
        return [{"chosen": reply(chosen), "fixed": [reply(policy) for policy in fixed]} for _ in range(rounds)]

    reply(chosen)  # times each number of threads
    calm = measured()
    with busy(threads):
        beside = measured()
    made.close()
    return {"calm": calm, "busy": beside}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many processes that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
