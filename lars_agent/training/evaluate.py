"""Losses of an adapter on replies and on general text, and the scores that the gate decides by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib import resources

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lars_agent.lars.forward import Batch, ReadPrompts, read_prompts, reply_hidden
from lars_agent.lars.inject import Attachment, LarsAdapter
from lars_agent.ops.losses import chunked_cross_entropy, chunked_divergence
from lars_agent.ops.memory_plan import DEFAULT_PLAN, MemoryPlan
from lars_agent.training.batches import Encoded, by_length, collate, encode_text
from lars_agent.training.gate import Scores

GENERAL_TEXT = "general.txt"
REHEARSAL_TEXT = "rehearsal.txt"
RIGHT = math.log(2)  # nats: a token less surprising has a probability above 1/2, so that greedy decoding chooses it
SCORED = 64  # trained replies that are scored too; scoring all would take long


def token_nll(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    batch: Batch,
    plan: MemoryPlan = DEFAULT_PLAN,
    prompts: ReadPrompts | None = None,
) -> Tensor:
    """Return the negative log-likelihood of each reply token (T,), in nats; `prompts` as in `reply_hidden`."""
    hidden = reply_hidden(attachment, adapter, batch, plan, prompts)  # (T, H)
    targets = batch.reply_ids[batch.reply_mask]
    return chunked_cross_entropy(hidden, attachment.vocabulary, targets, plan.loss_chunk)


def divergence_from_base(
    attachment: Attachment,
    adapter: LarsAdapter,
    batch: Batch,
    plan: MemoryPlan = DEFAULT_PLAN,
    prompts: ReadPrompts | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """Return KL(base model || adapted model) in nats per predicted token, a scalar with gradients to the adapter.

    `prompts` as in `reply_hidden`; `base` are the base model's hidden states (T, H), if they are known.
    """
    prompts = prompts or read_prompts(attachment, [adapter], batch, plan)
    if base is None:
        with torch.no_grad():
            base = reply_hidden(attachment, None, batch, plan, prompts)
    adapted = reply_hidden(attachment, adapter, batch, plan, prompts)
    return chunked_divergence(adapted, base, attachment.vocabulary, plan.loss_chunk).mean()


@torch.no_grad()
def token_losses(
    attachment: Attachment,
    adapters: Sequence[LarsAdapter | None],
    rows: Sequence[Encoded],
    pad_id: int,
    check: Callable[[], None] = lambda: None,
    plan: MemoryPlan = DEFAULT_PLAN,
) -> list[Tensor]:
    """Return for each of `adapters` the losses of all reply tokens of `rows` (T,) float64, in nats, in evaluation mode.

    Each prompt is read once for all of them, where that is possible. `check` is called after each batch.
    """
    for adapter in adapters:
        if adapter is not None:
            adapter.eval()
    ordered, none = by_length(rows), torch.empty(0, dtype=torch.float64)
    found = [[none] * len(adapters)]
    for start in range(0, len(ordered), plan.micro_batch):
        batch = collate(ordered[start : start + plan.micro_batch], pad_id)
        found.append(list(_batch_losses(attachment, adapters, batch, check, plan)))
    return [torch.cat(losses) for losses in zip(*found, strict=True)]


def _batch_losses(
    attachment: Attachment,
    adapters: Sequence[LarsAdapter | None],
    batch: Batch,
    check: Callable[[], None],
    plan: MemoryPlan,
) -> Iterator[Tensor]:
    """Yield for each adapter the losses of the batch; what was read of it is gone at the end."""
    prompts = read_prompts(attachment, adapters, batch, plan)
    for adapter in adapters:
        yield token_nll(attachment, adapter, batch, plan, prompts).double()
        check()


def score(trained: Tensor, heldout: Tensor, text: Tensor, rows: Sequence[Encoded]) -> Scores:
    """Return the scores that the gate decides by, from the `token_losses` (T,) of three sets of rows.

    `rows` are the trained ones, of which it is told whether they come out right as a whole.
    """
    recalled = torch.cat([trained, heldout]) < RIGHT
    whole = "".join("1" if share == 1.0 else "0" for share in shares_right(trained, rows))
    return Scores(float(heldout.mean()), float(text.mean()), float(recalled.double().mean()), whole)


def shares_right(losses: Tensor, rows: Sequence[Encoded]) -> list[float]:
    """Return the share of right reply tokens of each of `rows`, shortest first, from their `token_losses` (T,)."""
    replies = torch.split(losses < RIGHT, [len(row.reply) for row in by_length(rows)])
    return [float(reply.double().mean()) for reply in replies]


def general_text(tokenizer: PreTrainedTokenizerBase, name: str = GENERAL_TEXT) -> list[Encoded]:
    """Return the passages of a text in `lars_agent.data`; each one's second half is predicted from its first.

    `general.txt` is for evaluation only; `rehearsal.txt`, for training, shares no sentence with it.
    """
    text = resources.files("lars_agent.data").joinpath(name).read_text(encoding="utf-8")
    passages = [passage.strip() for passage in text.split("\n\n") if passage.strip()]
    return [encode_text(tokenizer, passage, f"{name}-{number}") for number, passage in enumerate(passages)]
