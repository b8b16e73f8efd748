"""Configuration of a LARS adapter."""

from __future__ import annotations

from typing import Annotated, Literal

import regex
from pydantic import AfterValidator, Field

from lars_agent.records import record

MOST_PATTERN_CHARS = 1000
PoolingName = Literal["sequence", "learned", "prompt", "response", "causal"]


def _compiling(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return a regular expression that compiles. Raises ValueError."""
    if isinstance(targets, str):
        if len(targets) > MOST_PATTERN_CHARS:
            raise ValueError(f"is longer than the {MOST_PATTERN_CHARS} characters of a sensible pattern")
        try:
            regex.compile(targets)
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise ValueError(f"is no regular expression: {error}") from error
    return targets


@record("lars")
class LarsConfig:
    """Shape and behaviour of a LARS adapter (arXiv 2604.22783, section 3); a section of the settings."""

    rank: int = Field(default=16, ge=1, le=4096, description="Width R of the activation-rank subspace.")
    pooling: PoolingName = Field(
        default="response",
        description="Tokens that each adapted layer pools: sequence, learned, prompt, response, causal.",
    )
    token_term: bool = Field(default=True, description="Add a term for each token, gated by the pooled vector.")
    chunk: int = Field(default=16, ge=1, le=2**20, description="Tokens in a chunk of `causal` pooling.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Probability of dropping a rank while training.")
    scale: float = Field(default=0.5, ge=-1000, le=1000, description="Initial weight a of the adapter's output.")
    target_modules: Annotated[str | tuple[str, ...], AfterValidator(_compiling)] = Field(
        default="all-linear",
        min_length=1,
        description="Layers to adapt: all-linear (all but the output head), names as in PEFT, or a regular expression.",
    )
    top_layers: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Adapt only the last so many decoder layers, which takes less memory; 0 is all.",
    )
