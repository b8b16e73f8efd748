"""What is trained is what is served: teacher-forced log-probabilities against decoding step by step."""

from __future__ import annotations

import copy

import pytest
import torch

from lars_agent.lars import LarsAdapter, LarsConfig, attach, reply_logits
from lars_agent.lars.decoding import HfSequence
from lars_agent.lars.forward import Batch
from lars_agent.training.batches import Encoded, collate
from tests.lars.conftest import shake
from tests.tiny import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2"]
MODES = ["sequence", "learned", "prompt", "response", "causal"]


def rows() -> list[Encoded]:
    """Three prompts and replies of unequal lengths."""
    generator = torch.Generator().manual_seed(5)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 120, (count,), generator=generator).tolist())

    return [Encoded(ids(p), ids(r), 1.0, "") for p, r in ((9, 7), (3, 4), (14, 2))]


def adapter_for(model, pooling: str, *, token_term: bool = True) -> LarsAdapter:
    config = LarsConfig(rank=4, pooling=pooling, chunk=4, token_term=token_term)  # type: ignore[arg-type]
    return shake(LarsAdapter.for_model(model, config))


def served_logits(attachment, adapter, row: Encoded) -> torch.Tensor:
    """(R, V): the logits that predict each reply token, decoded with the KV cache."""
    sequence = HfSequence(attachment, adapter, row.prompt)
    list(sequence.prefill())
    logits = [sequence.logits]
    for token in row.reply[:-1]:
        sequence.step(token)
        logits.append(sequence.logits)
    return torch.stack(logits)


def padded_logits(attachment, adapter: LarsAdapter | None, batch: Batch) -> torch.Tensor:
    """(B, R, V): the logits that predict each reply token, nothing at padding."""
    logits = reply_logits(attachment, adapter, batch)
    padded = torch.zeros(*batch.reply_mask.shape, logits.shape[1])
    padded[batch.reply_mask] = logits
    return padded


@pytest.mark.parametrize("token_term", [True, False])
@pytest.mark.parametrize("pooling", ["prompt", "response", "causal"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_served_log_probabilities_equal_the_trained_ones(family, pooling, token_term):
    model = tiny_model(family)
    attachment, adapter = attach(model), adapter_for(model, pooling, token_term=token_term)
    batch = collate(rows(), 0)
    trained = padded_logits(attachment, adapter, batch)
    for index, row in enumerate(rows()):
        served = served_logits(attachment, adapter, row).log_softmax(-1)
        expected = trained[index, : len(row.reply)].log_softmax(-1)
        torch.testing.assert_close(served, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_adapter_changes_something_in_every_family(family):
    model = tiny_model(family)
    attachment = attach(model)
    batch = collate(rows(), 0)
    base = reply_logits(attachment, None, batch)
    for pooling in MODES:
        changed = reply_logits(attachment, adapter_for(model, pooling), batch)
        assert (changed - base).abs().max() > 1e-2, pooling


@pytest.mark.parametrize("pooling", MODES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_fresh_adapter_leaves_the_model_unchanged(family, pooling):
    model = tiny_model(family)
    attachment = attach(model)
    fresh = LarsAdapter.for_model(model, LarsConfig(rank=4, pooling=pooling))
    batch = collate(rows(), 0)
    base = reply_logits(attachment, None, batch)
    torch.testing.assert_close(reply_logits(attachment, fresh.eval(), batch), base, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", MODES)
@torch.no_grad()
def test_padding_changes_no_reply(pooling):
    model = tiny_model("llama")
    attachment, adapter = attach(model), adapter_for(model, pooling)
    together = padded_logits(attachment, adapter, collate(rows(), 0))
    for index, row in enumerate(rows()):
        alone = reply_logits(attachment, adapter, collate([row], 0))
        length = len(row.reply)
        torch.testing.assert_close(together[index, :length], alone[:length], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", MODES)
def test_no_reply_sees_the_reply_token_it_predicts_unless_the_mode_is_as_published(pooling):
    model = tiny_model("llama")
    attachment, adapter = attach(model), adapter_for(model, pooling)
    row = rows()[0]
    changed = Encoded(row.prompt, (*row.reply[:-2], 99, 98), 1.0, "")
    with torch.no_grad():
        before = reply_logits(attachment, adapter, collate([row], 0))[0]
        after = reply_logits(attachment, adapter, collate([changed], 0))[0]
    leaks = not torch.allclose(before, after, atol=1e-5)
    assert leaks == (pooling in {"sequence", "learned"})


def naive_response_logits(attachment, adapter: LarsAdapter, batch: Batch) -> torch.Tensor:
    """`response` mode written without a KV cache: the whole sequence, the adapter masked to the acting tokens.

    The pooled vectors come from a pass of the base model over the prompt, as the mode is defined.
    """
    model, width = attachment.model, batch.prompt_ids.shape[1]
    ids = torch.cat([batch.prompt_ids, batch.reply_ids[:, :-1]], 1)
    mask = torch.cat([batch.prompt_mask, batch.reply_mask[:, :-1]], 1)
    position = (mask.cumsum(1) - 1).clamp_min(0)
    modules = dict(model.named_modules())
    pooled: dict[str, torch.Tensor] = {}

    def read(name):
        def hook(module, args, output):
            x = args[0]
            rows = [x[b, :width][batch.prompt_mask[b]] for b in range(len(x))]
            pooled[name] = torch.stack([row.mean(0) + row[-1] for row in rows])[:, None]

        return hook

    def act(name):
        def hook(module, args, output):
            layer = adapter.by_name[name]
            response = layer(pooled[name])
            delta = response.bias + (layer.token_delta(args[0], response.gate) if adapter.config.token_term else 0)
            acting = torch.arange(ids.shape[1]) >= width - 1
            return output + delta * acting[None, :, None]

        return hook

    def run(make):
        handles = [modules[name].register_forward_hook(make(name)) for name in adapter.by_name]
        try:
            return model(input_ids=ids, attention_mask=mask.long(), position_ids=position, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    with torch.no_grad():
        run(read)
    return run(act)[:, width - 1 :]


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("token_term", [True, False])
def test_gradients_of_response_training_equal_the_naive_computation(family, token_term):
    model = tiny_model(family)
    attachment, batch = attach(model), collate(rows(), 0)
    ours = adapter_for(model, "response", token_term=token_term)
    naive = copy.deepcopy(ours)
    for adapter, logits in ((ours, padded_logits), (naive, naive_response_logits)):
        loss = logits(attachment, adapter, batch).log_softmax(-1).gather(-1, batch.reply_ids[..., None])[..., 0]
        (-(loss * batch.reply_mask).sum() / batch.reply_tokens).backward()
    for (name, one), other in zip(ours.named_parameters(), naive.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(
                one.grad, other.grad, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
