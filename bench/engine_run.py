"""What an adapter costs while replying, and what a known beginning saves.

`python -m bench.engine_run FOLDER DTYPE THREADS`.

One process, one engine; what is compared takes turns. It prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from bench.contenders import PROMPT_TOKENS, REPLY_TOKENS, WARM_UP_TOKENS
from bench.text_prompt import text_of
from lars_agent.errors import LarsError
from lars_agent.lars import LarsAdapter, LarsConfig, save_adapter
from lars_agent.models.open import OpenedModel, open_model, precision
from lars_agent.runtime.engine import Engine, Generation, GenerationRequest
from lars_agent.store.adapters import AdapterStore
from lars_agent.store.manifest import AdapterManifest

ROUNDS = 5
LEAST_TOKENS = 32
PREFIX_TOKENS, QUESTION_TOKENS = 1000, 24
PREFIX_BYTES = 512 * 2**20
KINDS = {"bias": LarsConfig(token_term=False), "token_term": LarsConfig(), "causal": LarsConfig(pooling="causal")}
MOVED = 0.01  # standard deviation of an adapter's weights: enough that it acts, so little that it goes on speaking


def main(arguments: list[str]) -> int:
    """Prints the figures; the exit status."""
    folder, dtype, threads = arguments
    torch.set_num_threads(1)  # see `Engine`
    opened = open_model(Path(folder), *precision(dtype))
    store = AdapterStore(Path(tempfile.mkdtemp()))
    for kind, config in KINDS.items():
        publish(store, opened, kind, config)
    engine = Engine(opened, store, threads=int(threads), prefix_bytes=PREFIX_BYTES, parallel=1)
    figures = {"decode_tokens_s": decode_speeds(engine, opened), "first_token_s": first_tokens(engine, opened)}
    engine.close()
    print(json.dumps(figures))
    return 0


def publish(store: AdapterStore, opened: OpenedModel, profile: str, config: LarsConfig, seed: int = 0) -> int:
    """A version with random weights, as those of a trained one are: not in the base model's way. It is in use."""
    adapter = LarsAdapter.for_model(opened.model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(MOVED * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapter, Path(folder), base_model="bench", revision=None)
        manifest = store.publish(
            profile, Path(folder), AdapterManifest(parent=store.active(profile), base_model_sha256=opened.sha256)
        )
    store.activate(profile, manifest.version)
    return manifest.version


def decode_speeds(engine: Engine, opened: OpenedModel) -> list[dict[str, float]]:
    """Tokens a second while replying, of the base model and of each kind of adapter, round by round."""
    text = text_of(opened.tokenizer, PROMPT_TOKENS)
    for kind in (None, *KINDS):
        made(engine, text, kind, WARM_UP_TOKENS)
    return [
        {kind or "base": speed_of(made(engine, text, kind, REPLY_TOKENS)) for kind in (None, *KINDS)}
        for _ in range(ROUNDS)
    ]


def first_tokens(engine: Engine, opened: OpenedModel) -> list[dict[str, float]]:
    """Seconds until the first token after a prefix of `PREFIX_TOKENS`: new, and again with another question."""
    found = []
    for number in range(ROUNDS):
        prefix = text_of(opened.tokenizer, PREFIX_TOKENS, start=1 + 31 * number)
        questions = [text_of(opened.tokenizer, QUESTION_TOKENS, start=500 + 57 * (number + turn)) for turn in (0, 1)]
        cold, warm = (made(engine, prefix + "\n" + question, "token_term", 1) for question in questions)
        assert cold.cached_tokens == 0 < warm.cached_tokens
        found.append({"cold": cold.prompt_s, "warm": warm.prompt_s, "known_tokens": warm.cached_tokens})
    return found


def made(engine: Engine, text: str, kind: str | None, tokens: int) -> Generation:
    """A greedy reply of so many tokens."""
    request = GenerationRequest(
        messages=(), raw=text, profile=kind or "base", version="active" if kind else None, max_new_tokens=tokens
    )
    return engine.submit(request).result()


def speed_of(made: Generation) -> float:
    """Tokens a second from the first one on. Raises LarsError for a reply too short to say."""
    if made.generated_tokens < LEAST_TOKENS:
        raise LarsError(f"the reply ended after {made.generated_tokens} tokens")
    return (made.generated_tokens - 1) / made.reply_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
