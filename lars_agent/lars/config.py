"""Configuration of a LARS adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lars_agent.records import record

PoolingName = Literal["sequence", "learned", "prompt", "response", "causal"]


@record("lars")
class LarsConfig:
    """Shape and behaviour of a LARS adapter (arXiv 2604.22783, section 3); a section of the settings."""

    rank: int = Field(default=16, ge=1, description="Width R of the activation-rank subspace.")
    pooling: PoolingName = Field(
        default="response",
        description="Tokens that each adapted layer pools: sequence, learned, prompt, response, causal.",
    )
    token_term: bool = Field(default=True, description="Add a term for each token, gated by the pooled vector.")
    chunk: int = Field(default=16, ge=1, description="Tokens in a chunk of `causal` pooling.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Probability of dropping a rank while training.")
    scale: float = Field(default=0.5, allow_inf_nan=False, description="Initial weight a of the adapter's output.")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear",
        min_length=1,
        description="Layers to adapt: all-linear (all but the output head), names as in PEFT, or a regular expression.",
    )
    top_layers: int = Field(
        default=0, ge=0, description="Adapt only the last so many decoder layers, which takes less memory; 0 is all."
    )
