"""Held-out scores of an adapter: how well it replies as the person wants, and what it costs in general."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from lars_agent.lars.forward import Batch, reply_logits
from lars_agent.lars.inject import Attachment, LarsAdapter
from lars_agent.training.batches import Encoded, collate, encode_text
from lars_agent.training.gate import Scores

GENERAL_TEXT = "general.txt"
REHEARSAL_TEXT = "rehearsal.txt"
EVALUATION_BATCH = 8


def reply_nll(attachment: Attachment, adapter: LarsAdapter | None, batch: Batch) -> Tensor:
    """(B,) summed negative log-likelihood, in nats, of each row's reply."""
    logits = reply_logits(attachment, adapter, batch).float()  # (B, R, V)
    nll = F.cross_entropy(logits.flatten(0, 1), batch.reply_ids.flatten(), reduction="none")
    return (nll.view_as(batch.reply_ids) * batch.reply_mask).sum(dim=1)


def divergence_from_base(attachment: Attachment, adapter: LarsAdapter, batch: Batch) -> Tensor:
    """KL(base model || adapted model) in nats per predicted token, a scalar that carries gradients to the adapter."""
    with torch.no_grad():
        base = reply_logits(attachment, None, batch).float().log_softmax(dim=-1)[batch.reply_mask]  # (T, V)
    adapted = reply_logits(attachment, adapter, batch).float().log_softmax(dim=-1)[batch.reply_mask]
    return F.kl_div(adapted, base, reduction="batchmean", log_target=True)


@torch.no_grad()
def mean_loss(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    rows: Sequence[Encoded],
    pad_id: int,
    between: Callable[[], None] = lambda: None,
) -> float:
    """Nats per reply token over all `rows`, in evaluation mode; `between` is called after each batch."""
    if adapter is not None:
        adapter.eval()
    nll, tokens = 0.0, 0
    by_length = sorted(rows, key=len)
    for start in range(0, len(by_length), EVALUATION_BATCH):
        batch = collate(by_length[start : start + EVALUATION_BATCH], pad_id)
        nll += float(reply_nll(attachment, adapter, batch).sum())
        tokens += batch.reply_tokens
        between()
    return nll / tokens


def score(
    attachment: Attachment,
    adapter: LarsAdapter | None,
    heldout: Sequence[Encoded],
    general: Sequence[Encoded],
    pad_id: int,
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """The losses of `adapter` (None: the base model) that the gate decides by."""
    return Scores(
        reply_loss=mean_loss(attachment, adapter, heldout, pad_id, between),
        text_loss=mean_loss(attachment, adapter, general, pad_id, between),
    )


def general_text(tokenizer: PreTrainedTokenizerBase, name: str = GENERAL_TEXT) -> list[Encoded]:
    """A text shipped with the package: each passage's second half is predicted from its first.

    `general.txt` is measured and never trained on; `rehearsal.txt` shares no sentence with it and is for training.
    """
    text = resources.files("lars_agent.data").joinpath(name).read_text(encoding="utf-8")
    passages = [passage.strip() for passage in text.split("\n\n") if passage.strip()]
    return [encode_text(tokenizer, passage, f"{name}-{number}") for number, passage in enumerate(passages)]
