"""Check a pulled model: `python -m lars_agent.runtime.model_check FOLDER`.

What it replies token by token, and what training reads in batches, is compared with the model's plain forward pass, in
float32. Its first layers are enough for that, as many as have one of each kind; only where they fail the whole model is
asked. Not every decoder that transformers opens passes: recurrent ones keep a state besides the keys and values, some
take no padding, and one flattens its batch before layers that an adapter needs it for.

The result is one line of JSON on stdout: `{"limits": [...]}`, reasons why the model is not good for everything, or a
serialized error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lars_agent.errors import LarsError, ModelUnsupported, serialize_error
from lars_agent.example import Message
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.decoding import HfSequence
from lars_agent.lars.forward import Batch, reply_logits
from lars_agent.models.chat_template import encode_prompt, traits_of
from lars_agent.models.conform import conform_weights
from lars_agent.models.control_tokens import written_tokens
from lars_agent.models.open import OpenedModel, empty_model, open_generation_config, open_model, open_tokenizer
from lars_agent.models.weights import refuse_quantized
from lars_agent.ops.attention import GROUPED, SDPA
from lars_agent.ops.decoder_layers import decoder_layers
from lars_agent.ops.memory_plan import DEFAULT_PLAN
from lars_agent.runtime.backend import Backend, choose_backend

TEXT = "My sister lives in Bergen with two cats, and on Sundays she bakes bread. Where does she live, and with whom?"
LENGTHS = ((24, 8), (11, 5))  # tokens of the prompts and replies that are compared
CHUNK = 7  # prompt tokens of a pass, so that prompts take several
STD = 0.05  # of the random adapter that replies and training are compared with
TOLERANCE = 1e-3  # of centred logits, relative to their norm


@dataclass(frozen=True)
class Row:
    """A prompt and a reply, as token ids."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]


def check_model(folder: Path) -> tuple[str, ...]:
    """Check the model in `folder`, convert its weights if necessary, and return what it cannot do.

    Raises ModelIncomplete, ModelCorrupt, or ModelUnsupported with the reason.
    """
    refuse_quantized(folder)
    tokenizer = open_tokenizer(folder)
    open_generation_config(folder)
    traits = traits_of(tokenizer)
    if traits.no_chat is not None:
        raise ModelUnsupported(f"{traits.no_chat}; choose another model")
    conform_weights(folder)
    dtype = empty_model(folder).config.dtype
    opened = open_model(folder, torch.float32 if dtype == torch.float32 else torch.bfloat16, tokenizer=tokenizer)
    _check_vocabulary(opened)
    cannot_train = _checked(opened)
    reasons = [reason for reason in (traits.no_training, cannot_train) if reason is not None]
    return tuple(f"it replies, but cannot be trained: {reason}" for reason in reasons[:1])


def _check_vocabulary(opened: OpenedModel) -> None:
    """Raise ModelUnsupported if the embedding lacks the row of a token that a conversation can have."""
    embedding: Any = opened.model.get_input_embeddings()
    rows, ids = embedding.weight.shape[0], written_tokens(opened.tokenizer)
    ids |= set(encode_prompt(opened.tokenizer, [Message(role="user", content=TEXT)]))
    lacking = sorted(token for token in ids if token >= rows)
    if lacking:
        raise ModelUnsupported(
            f"the model's embedding has {rows} rows, but its tokenizer or chat template writes token {lacking[0]} "
            f"({opened.tokenizer.convert_ids_to_tokens(lacking[0])!r}); choose a model whose files fit together"
        )


def _checked(opened: OpenedModel) -> str | None:
    """Return `_compare` of the first layers, or of all of them where those fail. Raises as it does."""
    if _shorten(opened.model):
        with suppress(ModelUnsupported):
            if (reason := _compare(opened)) is None:
                return reason
        opened = open_model(opened.folder, tokenizer=opened.tokenizer)
    return _compare(opened)


def _shorten(model: PreTrainedModel) -> bool:
    """Leave out the layers behind the first of each kind, at least two; return True if there were any."""
    layers = decoder_layers(model)
    parents = {name.rpartition(".")[0] for name in layers}
    if len(parents) != 1:
        return False
    parent = parents.pop()
    given = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or [""] * len(layers)
    kinds = [
        (kind, type(layer), *(name for name, _ in layer.named_parameters()))
        for kind, layer in zip(given, layers.values(), strict=False)
    ]
    needed = max([2, *(kinds.index(kind) + 1 for kind in kinds)])
    if needed >= len(layers):
        return False
    model.set_submodule(parent, nn.ModuleList(list(layers.values())[:needed]))
    return True


def _compare(opened: OpenedModel) -> str | None:
    """Compare replies and training with the model's plain forward pass; return why it cannot be trained, if so.

    Raises ModelUnsupported if one differs.
    """
    opened.model.float()  # type: ignore[no-untyped-call]
    rows, kind = _rows(opened), opened.model.config.model_type
    backend = choose_backend(opened, 0)
    try:
        expected, actual = _plain(opened, rows), _replies(backend, None, rows)
    except Exception as error:  # models are programs, and raise whatever they like
        raise ModelUnsupported(f"a {kind} model cannot reply here: {type(error).__name__}: {error}") from error
    _require_equal(opened, actual, expected, "token by token")
    adapter, attachment = None, None
    try:
        adapter = _random_adapter(opened)
        replies = _replies(backend, backend.prepare(adapter), rows)
        backend.close()
        attachment = attach(opened.model)
        batch, plan = _batch(rows), replace(DEFAULT_PLAN, prompt_chunk=CHUNK)
        with torch.no_grad():
            read = reply_logits(attachment, None, batch, plan)
        learned = reply_logits(attachment, adapter, batch, plan)
        learned.logsumexp(dim=1).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        return str(error) if isinstance(error, LarsError) else f"{type(error).__name__}: {error}"
    finally:
        backend.close()
        if attachment is not None:
            attachment.detach()
    _require_equal(opened, read, expected, "in a batch")
    _require_equal(opened, learned.detach(), replies, "in a batch with an adapter")
    return None


def _rows(opened: OpenedModel) -> list[Row]:
    ids = encode_prompt(opened.tokenizer, [Message(role="user", content=TEXT)])
    reply = opened.tokenizer.encode(TEXT, add_special_tokens=False)
    return [Row(tuple(ids[-prompt:]), tuple(reply[:count])) for prompt, count in LENGTHS]


@torch.no_grad()
def _plain(opened: OpenedModel, rows: Sequence[Row]) -> Tensor:
    """Return the logits (T, V) of all reply tokens by one pass for each row, with transformers' own attention."""
    model, was = opened.model, opened.model.config._attn_implementation
    if was == GROUPED:
        model.set_attn_implementation(SDPA)
    try:
        passes = [model(input_ids=torch.tensor([[*row.prompt, *row.reply]]), use_cache=False).logits for row in rows]
    finally:
        if was == GROUPED:
            model.set_attn_implementation(GROUPED)
    return torch.cat([logits[0, len(row.prompt) - 1 : -1] for logits, row in zip(passes, rows, strict=True)]).float()


def _replies(backend: Backend, adapter: Any, rows: Sequence[Row]) -> Tensor:
    """Return the logits (T, V) of all reply tokens, decoded one by one, the rows together."""
    sequences = [backend.start(adapter, row.prompt, len(row.reply)) for row in rows]
    for sequence in sequences:
        if isinstance(sequence, HfSequence):
            sequence.chunk = CHUNK
        for _ in sequence.prefill():
            pass
    logits = [[sequence.logits.clone()] for sequence in sequences]
    for step in range(max(len(row.reply) for row in rows) - 1):
        going = [number for number, row in enumerate(rows) if step + 1 < len(row.reply)]
        backend.step([sequences[number] for number in going], [rows[number].reply[step] for number in going])
        for number in going:
            logits[number].append(sequences[number].logits.clone())
    return torch.cat([torch.stack(steps) for steps in logits])


def _random_adapter(opened: OpenedModel) -> LarsAdapter:
    """Return an adapter that adds something to every layer that it would be trained on."""
    adapter = LarsAdapter.for_model(opened.model, LarsConfig()).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in adapter.by_name.values():
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator) * STD)
    return adapter


def _batch(rows: Sequence[Row]) -> Batch:
    """Return the rows padded to the longest."""
    width, length = (max(sizes) for sizes in zip(*((len(row.prompt), len(row.reply)) for row in rows), strict=True))
    prompts = torch.zeros(len(rows), width, dtype=torch.long)
    replies = torch.zeros(len(rows), length, dtype=torch.long)
    prompt_mask, reply_mask = torch.zeros_like(prompts).bool(), torch.zeros_like(replies).bool()
    for number, row in enumerate(rows):
        prompts[number, width - len(row.prompt) :] = torch.tensor(row.prompt)
        replies[number, : len(row.reply)] = torch.tensor(row.reply)
        prompt_mask[number, width - len(row.prompt) :] = True
        reply_mask[number, : len(row.reply)] = True
    return Batch(prompts, prompt_mask, replies, reply_mask, torch.ones(len(rows)))


def _require_equal(opened: OpenedModel, actual: Tensor, expected: Tensor, how: str) -> None:
    """Raise ModelUnsupported if the logits (T, V) differ by more than rounding."""
    left, right = (logits.float() - logits.float().mean(dim=1, keepdim=True) for logits in (actual, expected))
    error = float((left - right).norm() / right.norm())
    if not error <= TOLERANCE:
        raise ModelUnsupported(
            f"a {opened.model.config.model_type} model computes something else {how} than in one pass (off by "
            f"{error:.1%}): it keeps or needs more than keys and values, which is not supported; choose another model"
        )


def main(arguments: list[str]) -> int:
    """Check the folder, print the result and return the exit status."""
    try:
        print(json.dumps({"limits": check_model(Path(arguments[0]))}))  # noqa: T201 (its only output)
    except LarsError as error:
        print(json.dumps(serialize_error(error)))  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
