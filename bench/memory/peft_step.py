"""A step of PEFT's methods as their users run it: loss and logits of the reply alone, AdamW, all linear layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.memory.cell import Cell
from lars_agent.lars.head import vocabulary_of
from lars_agent.models.open import OpenedModel
from lars_agent.ops.losses import Vocabulary, chunked_cross_entropy
from lars_agent.training.batches import Encoded

RANK, ALPHA, DROPOUT = 8, 32, 0.05  # as the paper compares LoRA
RATE = 5e-4


def peft_step(cell: Cell, opened: OpenedModel, example: Encoded) -> Callable[[], None]:
    """A step of LoRA, LoRA-FA, IA3 or VeLoRA, with checkpointing and a chunked loss where the method says so."""
    kind, *extras = cell.method.split("+")
    # The vocabulary is found while there is no dropout in the model.
    loss = partial(chunked_loss, vocabulary_of(opened.model)) if "chunked" in extras else whole_loss
    model = peft_model(kind, opened.model)
    optimizer = peft_optimizer(kind, model)
    if "checkpointing" in extras:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    ids = torch.tensor([[*example.prompt, *example.reply]])  # (1, P + R)

    def step() -> None:
        loss(model, ids, cell.reply).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peft_model(kind: str, base: Any, alpha: int = ALPHA) -> Any:
    """`base` with PEFT's adapter of that kind in its linear layers, in training mode."""
    from peft import IA3Config, LoraConfig, get_peft_model  # in no other method's memory

    lora: dict[str, Any] = {"r": RANK, "lora_alpha": alpha, "lora_dropout": DROPOUT, "target_modules": "all-linear"}
    if kind == "velora":
        from peft import VeloraConfig

        lora["velora_config"] = VeloraConfig()
    config: Any = IA3Config if kind == "ia3" else LoraConfig
    return get_peft_model(base, config(task_type="CAUSAL_LM", **({} if kind == "ia3" else lora))).train()


def peft_optimizer(kind: str, model: Any) -> torch.optim.Optimizer:
    """AdamW on the trained parameters; LoRA-FA's own, which freezes A and corrects the gradient of B."""
    if kind == "lora-fa":
        from peft.optimizers import create_lorafa_optimizer

        return create_lorafa_optimizer(model, r=RANK, lora_alpha=ALPHA, lr=RATE)
    return torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=RATE)


def whole_loss(model: Any, ids: Tensor, reply: int) -> Tensor:
    """The mean loss of the reply's tokens, from all of their logits in float32."""
    logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=reply).logits.float()  # (1, R, V)
    return functional.cross_entropy(logits[0], ids[0, -reply:])


def chunked_loss(vocabulary: Vocabulary, model: Any, ids: Tensor, reply: int) -> Tensor:
    """The same, its logits made a chunk at a time, as ours are."""
    decoder = model.get_base_model().base_model
    hidden = decoder(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # (1, P + R - 1, H)
    return chunked_cross_entropy(hidden[0, -reply:], vocabulary, ids[0, -reply:]).mean()
