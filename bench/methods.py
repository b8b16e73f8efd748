"""The ways to fine-tune (and one not to) that are compared, and how each is run as its users run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.allocators import WORKER
from bench.cell import Cell

SMALL: Mapping[str, Any] = {"micro_batch": 1, "optimizer_bits": 8, "loss_chunk": 8}  # the smallest plan
PLAIN: Mapping[str, Any] = {"micro_batch": 1, "recompute": False, "loss_chunk": 1024}  # nothing but LARS itself


@dataclass(frozen=True)
class Method:
    """`label` is what a plot says. PEFT's methods run as they come: transformers' attention, glibc's allocator."""

    kind: Literal["inference", "lars", "peft"]
    label: str
    plan: Mapping[str, Any] = field(default_factory=dict)


METHODS: Mapping[str, Method] = {
    "inference": Method("inference", "inference with an adapter"),
    "response": Method("lars", "LARS response", SMALL),
    "response+token": Method("lars", "LARS response + token term", SMALL),
    "prompt": Method("lars", "LARS prompt", SMALL),
    "causal": Method("lars", "LARS causal", SMALL),
    "sequence": Method("lars", "LARS sequence", SMALL),
    "learned": Method("lars", "LARS learned", SMALL),
    "sequence+plain": Method("lars", "LARS sequence, as published", PLAIN),
    "lora": Method("peft", "LoRA"),
    "lora+checkpointing": Method("peft", "LoRA, checkpointing"),
    "lora+checkpointing+chunked": Method("peft", "LoRA, checkpointing, chunked loss"),
    "lora-fa": Method("peft", "LoRA-FA"),
    "ia3": Method("peft", "IA3"),
    "velora": Method("peft", "VeLoRA"),
}


def usual(name: str, context: int, dtype: str, **more: Any) -> Cell:
    """The cell of a method as its users run it."""
    method = METHODS[name]
    settings: dict[str, Any] = {"plan": dict(method.plan)}
    if method.kind == "peft":
        settings |= {"attention": "transformers", "allocator": "glibc"}
    if method.kind == "inference":
        more |= {"steps": 1}  # a whole reply: there is nothing to wait for
    return Cell(name, context, dtype, **settings | more)


def given_ours(name: str, context: int, dtype: str, **more: Any) -> Cell:
    """The cell of a method that is given our attention and our allocator settings."""
    return usual(name, context, dtype, **{"attention": "grouped", "allocator": WORKER} | more)
