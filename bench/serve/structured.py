"""The cost of a grammar: replies held to a schema next to free ones of the same length, for `bench.child.call`."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch

from bench.serve.child import Figures, text_of
from bench.serve.speed import PROMPT_TOKENS, REPLY_TOKENS
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import open_model
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import GenerationRequest, Grammar
from lars_agent.store.adapters import AdapterStore

WARM_UP_TOKENS = 8
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "born": {"type": "string", "format": "date"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["friend", "family", "work"]}, "maxItems": 3},
        "note": {"type": "string"},
    },
    "required": ["name", "born", "age", "tags", "note"],
    "additionalProperties": False,
}


def grammar(model: str, dtype: str, rounds: int, threads: int) -> list[Figures]:
    """Seconds a token of a free reply and of one held to a schema, in turn, and seconds to submit the latter.

    Each round has a schema of its own, as its compilation counts; it is too long to be completed.
    """
    torch.set_num_threads(1)  # see `Engine`
    opened = open_model(Path(model), *precision(dtype, Path(model)))
    made = Engine(opened, AdapterStore(Path(tempfile.mkdtemp())), threads=threads, parallel=1)
    text, found = text_of(opened.tokenizer, PROMPT_TOKENS), list[Figures]()

    def reply(form: Grammar | None, tokens: int) -> tuple[float, float, int]:
        """Seconds to submit the request, seconds a token behind the first one, and their number."""
        asked = GenerationRequest((), raw=text, version=None, max_new_tokens=tokens, grammar=form)
        started = time.perf_counter()
        ticket = made.submit(asked)
        submitted, done = time.perf_counter() - started, ticket.result()
        return submitted, done.reply_s / max(1, done.generated_tokens - 1), done.generated_tokens

    for number in range(rounds + 1):
        schema = {"type": "array", "items": PERSON, "minItems": 1000 + number}
        form = Grammar(schema=json.dumps(schema))
        _, free_s, count = reply(None, REPLY_TOKENS if number else WARM_UP_TOKENS)
        new_s, held_s, held_count = reply(form, count)
        if number:  # the first one warms up
            found.append({"free": free_s, "held": held_s, "tokens": count, "held_tokens": held_count, "new_s": new_s})
    made.close()
    return found
