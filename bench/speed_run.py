"""How fast one program in torch reads a prompt and replies: `python -m bench.speed_run FOLDER CONTENDER THREADS`.

A process of its own for each run. It prints one JSON object: seconds to the first token and from that to the last.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.contenders import CONTENDERS, PROMPT_TOKENS, REPLY_TOKENS, WARM_UP_TOKENS, Contender
from bench.text_prompt import text_of
from lars_agent.models.open import OpenedModel, open_model, precision
from lars_agent.runtime.engine import Engine, GenerationRequest
from lars_agent.store.adapters import AdapterStore

Figures = dict[str, float]
Replying = Callable[[str, int], Figures]


def main(arguments: list[str]) -> int:
    """Prints the figures; the exit status."""
    folder, name, threads = arguments
    contender = next(one for one in CONTENDERS if one.name == name)
    torch.set_num_threads(1 if contender.program == "ours" else int(threads))  # see `Engine`
    opened = open_model(Path(folder), *precision(contender.dtype))
    text = text_of(opened.tokenizer, PROMPT_TOKENS)
    reply = replying(contender, opened, int(threads))
    reply(text[: len(text) // 2], WARM_UP_TOKENS)
    print(json.dumps(reply(text, REPLY_TOKENS)), flush=True)
    os._exit(0)  # whatever threads there are


def replying(contender: Contender, opened: OpenedModel, threads: int) -> Replying:
    """What makes a greedy reply of so many tokens to a text, and says how long that took."""
    return ours(opened, threads) if contender.program == "ours" else transformers(opened)


def ours(opened: OpenedModel, threads: int) -> Replying:
    """The engine, from the request to the whole reply; no prompt is known from before."""
    engine = Engine(opened, AdapterStore(Path(tempfile.mkdtemp())), threads=threads, prefix_bytes=0)

    def reply(text: str, tokens: int) -> Figures:
        request = GenerationRequest(messages=(), raw=text, version=None, max_new_tokens=tokens)
        made = engine.submit(request).result()
        return {"prompt_s": made.prompt_s, "reply_s": made.reply_s, "tokens": made.generated_tokens}

    return reply


def transformers(opened: OpenedModel) -> Replying:
    """transformers' `generate` with its own cache and attention."""
    opened.model.set_attn_implementation("sdpa")

    class Clock:
        """A streamer that notes when each token came; the prompt is the first that it is given."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            return

    def reply(text: str, tokens: int) -> Figures:
        ids, clock = torch.tensor([opened.tokenizer.encode(text)]), Clock()
        started = time.perf_counter()
        opened.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            streamer=clock,
        )
        _, first, *_, last = clock.times
        return {"prompt_s": first - started, "reply_s": last - first, "tokens": tokens}

    return reply


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
