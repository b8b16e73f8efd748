"""Configuration of training, a section of the settings; it does not import torch."""

from __future__ import annotations

import math

from pydantic import Field

from lars_agent.records import record


@record("training")
class TrainConfig:
    """Optimization, evaluation, checkpoints and rehearsal of one training run."""

    steps: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Optimizer steps of `batch_size` x `accumulation` examples; 0 reads each example up to `epochs` "
        "times, and ends `cooldown_steps` after they are known.",
    )
    epochs: int = Field(
        default=24, ge=1, le=100_000, description="How often each example is read at most where `steps` is 0."
    )
    known_share: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="Share of a reply's tokens, when its example was read last, whose probability is above 1/2, at "
        "which the example counts as known.",
    )
    known_examples: float = Field(default=0.95, gt=0, le=1, description="Share of the examples that are to be known.")
    cooldown_steps: int = Field(
        default=10, ge=1, le=1_000_000, description="Last steps, in which the learning rate falls to zero."
    )
    batch_size: int = Field(default=8, ge=1, le=4096, description="Examples in a batch.")
    accumulation: int = Field(default=1, ge=1, le=4096, description="Batches in a step.")
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        description="Peak learning rate, reached after `warmup_steps`; then a cosine down to zero at the last step.",
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="AdamW's weight decay, on matrices only.")
    warmup_steps: int = Field(default=10, ge=0, le=1_000_000, description="Steps until the peak learning rate.")
    clip_norm: float = Field(default=1.0, gt=0, le=1e6, description="Largest 2-norm of the gradient.")
    evaluate_every: int = Field(default=10, ge=1, le=1_000_000, description="Steps between two evaluations.")
    checkpoint_every: int = Field(default=20, ge=1, le=1_000_000, description="Steps between two checkpoints.")
    patience: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Stop early, after this many evaluations without a lower held-out loss, and keep the step with "
        "the lowest; 0 runs all steps and keeps the last.",
    )
    rehearsal_batch: int = Field(
        default=1,
        ge=0,
        le=4096,
        description="General-text passages per step on which the adapter is kept close to the base model; 0 is off.",
    )
    rehearsal_weight: float = Field(
        default=1.0, ge=0, le=1e6, description="Weight of their divergence (nats per token) in the loss."
    )
    wordings: bool = Field(
        default=True,
        description="Read short questions, English ones at present, in other wordings too, another one in each epoch.",
    )
    warm_start: bool = Field(
        default=True,
        description="Go on from the adapter in use with what it does not know, and read all of the examples once more "
        "at last; off, or after a candidate made so was rejected: learn everything anew.",
    )
    prompt_cache_bytes: int = Field(
        default=2**28,
        ge=0,
        le=2**50,
        description="Most memory, of the budget, for prompts that are read once and kept instead of read anew in each "
        "step; 0 keeps none.",
    )
    max_seq_len: int = Field(default=1024, ge=1, le=2**20, description="Longest prompt and reply together, tokens.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of the adapter, the data order and the dropout.")

    def steps_for(self, examples: int) -> int:
        """Return the optimizer steps of a run on so many examples."""
        return self.steps or math.ceil(self.epochs * examples / min(examples, self.batch_size * self.accumulation))
