"""Losses of an adapter on replies and on general text, and the scores that the gate decides by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import resources

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lars_agent.lars.forward import Batch, reads_first, reply_hidden
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
    attachment: Attachment, adapter: LarsAdapter | None, batch: Batch, plan: MemoryPlan = DEFAULT_PLAN
) -> Tensor:
    """Return the negative log-likelihood of each reply token (T,), in nats."""
    hidden = reply_hidden(attachment, adapter, batch, plan)  # (T, H)
    targets = batch.reply_ids[batch.reply_mask]
    return chunked_cross_entropy(hidden, attachment.vocabulary, targets, plan.loss_chunk)


def divergence_from_base(
    attachment: Attachment, adapter: LarsAdapter, batch: Batch, plan: MemoryPlan = DEFAULT_PLAN
) -> Tensor:
    """Return KL(base model || adapted model) in nats per predicted token, a scalar with gradients to the adapter."""
    with torch.no_grad():
        base = reply_hidden(attachment, None, batch, plan, reading_first=reads_first(adapter))  # (T, H)
    adapted = reply_hidden(attachment, adapter, batch, plan)
    return chunked_divergence(adapted, base, attachment.vocabulary, plan.loss_chunk).mean()


@torch.no_grad()
def token_losses(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    rows: Sequence[Encoded],
    pad_id: int,
    check: Callable[[], None] = lambda: None,
    plan: MemoryPlan = DEFAULT_PLAN,
) -> Tensor:
    """Return the loss of each reply token of all `rows` (T,) float64, in nats, in evaluation mode.

    `check` is called after each batch.
    """
    if adapter is not None:
        adapter.eval()
    losses, ordered = [torch.empty(0, dtype=torch.float64)], by_length(rows)
    for start in range(0, len(ordered), plan.micro_batch):
        batch = collate(ordered[start : start + plan.micro_batch], pad_id)
        losses.append(token_nll(attachment, adapter, batch, plan).double())
        check()
    return torch.cat(losses)


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
