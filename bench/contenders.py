"""Who is compared in speed: our engine by precision, transformers, llama.cpp on the file our model was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Program = Literal["ours", "transformers", "llama.cpp"]


@dataclass(frozen=True)
class Contender:
    """A program, and what it computes in; `name` is what rows call it."""

    name: str
    program: Program
    dtype: str


OURS = tuple(Contender(f"ours_{dtype}", "ours", dtype) for dtype in ("int4", "int8", "bfloat16", "float32"))
TRANSFORMERS = Contender("transformers_bfloat16", "transformers", "bfloat16")
LLAMACPP = Contender("llamacpp_q4", "llama.cpp", "Q4_1")
CONTENDERS: Sequence[Contender] = (*OURS, LLAMACPP, TRANSFORMERS)
PROMPT_TOKENS, REPLY_TOKENS = 451, 128
WARM_UP_TOKENS = 8
