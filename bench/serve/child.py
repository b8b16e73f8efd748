"""Work with torch, for `bench.child.call`: public functions of JSON values."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from bench.serve.speed import OURS, PROMPT_TOKENS, REPLY_TOKENS
from lars_agent.errors import LarsError
from lars_agent.lars import LarsAdapter, LarsConfig, save_adapter
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import OpenedModel, open_model, open_tokenizer
from lars_agent.models.sources import default_gguf
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import Generation, GenerationRequest
from lars_agent.store.adapters import AdapterStore
from lars_agent.store.manifest import AdapterManifest
from lars_agent.training.evaluate import general_text

WARM_UP_TOKENS, LEAST_TOKENS = 8, 32
ROUNDS = 5
PREFIX_TOKENS, QUESTION_TOKENS = 1000, 24
PREFIX_BYTES = 512 * 2**20
KINDS = {"bias": LarsConfig(token_term=False), "token_term": LarsConfig(), "causal": LarsConfig(pooling="causal")}
BASE = "base"
SPREAD = 0.01  # standard deviation of an adapter's weights: enough to matter, too little to break the replies
Figures = dict[str, float]


def speed(model: str, contender: str, threads: int) -> Figures:
    """Seconds to the first token of one greedy reply, and from that to the last, after a short one to warm up."""
    torch.set_num_threads(1 if contender in OURS else threads)  # see `Engine`
    opened = open_model(Path(model), *precision(OURS.get(contender, "bfloat16"), Path(model)))
    text = text_of(opened.tokenizer, PROMPT_TOKENS)
    reply = _ours(opened, threads) if contender in OURS else _transformers(opened)
    reply(text[: len(text) // 2], WARM_UP_TOKENS)
    return reply(text, REPLY_TOKENS)


def _ours(opened: OpenedModel, threads: int) -> Callable[[str, int], Figures]:
    """The engine, from the request to the whole reply; no prefix is cached."""
    engine = Engine(opened, AdapterStore(Path(tempfile.mkdtemp())), threads=threads, prefix_bytes=0)

    def reply(text: str, tokens: int) -> Figures:
        made = generate(engine, text, BASE, tokens)
        return {"prompt_s": made.prompt_s, "reply_s": made.reply_s, "tokens": made.generated_tokens}

    return reply


def _transformers(opened: OpenedModel) -> Callable[[str, int], Figures]:
    """transformers' `generate` with its own cache and attention."""
    opened.model.set_attn_implementation("sdpa")

    def reply(text: str, tokens: int) -> Figures:
        ids, times = torch.tensor([opened.tokenizer.encode(text)]), [time.perf_counter()]

        def clock(*state: Any) -> bool:
            """A stopping criterion that never stops, and notes when each token came."""
            times.append(time.perf_counter())
            return False

        lengths = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
        opened.model.generate(ids, attention_mask=torch.ones_like(ids), stopping_criteria=[clock], **lengths)
        started, first, *_, last = times
        return {"prompt_s": first - started, "reply_s": last - first, "tokens": tokens}

    return reply


def engine(model: str, dtype: str, threads: int) -> dict[str, list[Figures]]:
    """Tokens a second of the base model and each kind of adapter, and seconds to the first token after a prefix."""
    torch.set_num_threads(1)  # see `Engine`
    opened, store = open_model(Path(model), *precision(dtype, Path(model))), AdapterStore(Path(tempfile.mkdtemp()))
    made = Engine(opened, store, threads=threads, prefix_bytes=PREFIX_BYTES, parallel=1)
    for kind, config in KINDS.items():
        made.swap(kind, publish_random(store, opened, kind, config))
    figures = {"decode_tokens_s": _decode_speeds(made, opened), "first_token_s": _first_tokens(made, opened)}
    made.close()
    return figures


def _decode_speeds(made: Engine, opened: OpenedModel) -> list[Figures]:
    """Tokens a second, round by round. Raises LarsError for a reply too short to tell."""
    text = text_of(opened.tokenizer, PROMPT_TOKENS)

    def speed_of(kind: str) -> float:
        reply = generate(made, text, kind, REPLY_TOKENS)
        if reply.generated_tokens < LEAST_TOKENS:
            raise LarsError(f"the reply ended after {reply.generated_tokens} tokens")
        return (reply.generated_tokens - 1) / reply.reply_s

    for kind in (BASE, *KINDS):
        generate(made, text, kind, WARM_UP_TOKENS)
    return [{kind: speed_of(kind) for kind in (BASE, *KINDS)} for _ in range(ROUNDS)]


def _first_tokens(made: Engine, opened: OpenedModel) -> list[Figures]:
    """Seconds until the first token after a prefix of `PREFIX_TOKENS`: new, and again with another question."""
    found = []
    for number in range(ROUNDS):
        prefix = text_of(opened.tokenizer, PREFIX_TOKENS, start=1 + 31 * number)
        questions = [text_of(opened.tokenizer, QUESTION_TOKENS, start=500 + 57 * (number + turn)) for turn in (0, 1)]
        cold, warm = (generate(made, prefix + "\n" + question, "token_term", 1) for question in questions)
        assert cold.cached_tokens == 0 < warm.cached_tokens
        found.append({"cold": cold.prompt_s, "warm": warm.prompt_s, "known_tokens": warm.cached_tokens})
    return found


def generate(made: Engine, text: str, profile: str, tokens: int) -> Generation:
    """A greedy reply of so many tokens by the profile's active version; `BASE` has none."""
    version = None if profile == BASE else "active"
    request = GenerationRequest(messages=(), raw=text, profile=profile, version=version, max_new_tokens=tokens)
    return made.submit(request).result()


def prompts(model: str) -> dict[str, list[int]]:
    """The token ids of the text that all programs read, and of a half of it to warm up."""
    tokenizer = open_tokenizer(Path(model))
    text = text_of(tokenizer, PROMPT_TOKENS)
    return {"warmUp": tokenizer.encode(text[: len(text) // 2]), "prompt": tokenizer.encode(text)}


def text_of(tokenizer: PreTrainedTokenizerFast, count: int, start: int = 0) -> str:
    """A text that encodes to `count` tokens, from word number `start` of the gate's general text on.

    Raises LarsError where no piece of that text is so long.
    """
    words = [token for row in general_text(tokenizer) for token in (*row.prompt, *row.reply)]
    words = words[start % len(words) :] + words[: start % len(words)]
    text = str(tokenizer.decode((words * (1 + count // len(words)))[: count + 8]))
    for end in range(len(text), 0, -1):
        if len(tokenizer.encode(text[:end])) == count:
            return text[:end]
    raise LarsError(f"no text of {count} tokens")


def publish(model: str, folder: str, count: int) -> None:
    """Publish versions of the default profile with random weights."""
    store, opened = AdapterStore(Path(folder)), open_model(Path(model))
    for seed in range(count):
        publish_random(store, opened, "default", LarsConfig(), seed)


def publish_random(store: AdapterStore, opened: OpenedModel, profile: str, config: LarsConfig, seed: int = 0) -> int:
    """Publish a version whose weights are random, small, and not the initial ones; return its number."""
    adapter = LarsAdapter.for_model(opened.model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(SPREAD * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapter, Path(folder), base_model="bench", revision=None)
        draft = AdapterManifest(parent=store.active(profile), base_model_sha256=opened.sha256)
        return store.publish(profile, Path(folder), draft).version


def gguf(downloads: str, file: str) -> None:
    """Fetch the file that the default model was made from."""
    Path(downloads).mkdir(parents=True, exist_ok=True)
    default_gguf(Path(downloads), Path(file), lambda words: None)
