"""Scores of an adapter, checked against plain logits."""

from __future__ import annotations

import pytest
import torch

from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.forward import reply_logits
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.training.batches import by_length, collate, encode_text
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import score, token_losses
from tests.lars.conftest import shake
from tests.lars.test_serving import adapter_for
from tests.lars.test_serving import rows as some_rows
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.test_trainer import trainer


def test_scores_are_held_out_loss_text_loss_and_share_of_taught_and_held_out_tokens_above_one_half():
    made = trainer(TrainConfig(steps=40, batch_size=3, learning_rate=2e-2, evaluate_every=40))
    made.run()
    texts = [encode_text(tiny_tokenizer(), text, "") for text in ("The tide went out early.", "It rains.")]
    means, probabilities = [], []
    for rows in (made.rows.train, made.rows.heldout, texts):
        chances = []
        for row in rows:
            batch = collate([row], 0)
            with torch.no_grad():
                logits = reply_logits(made.attachment, made.adapter.eval(), batch)  # (T, V)
            chances.append(logits.softmax(-1)[range(len(row.reply)), list(row.reply)])
        probabilities.append(torch.cat(chances))
        means.append(-float(probabilities[-1].log().mean()))
    recall = float((torch.cat(probabilities[:2]) > 0.5).double().mean())
    parts = (made.rows.train, made.rows.heldout, texts)
    losses = [token_losses(made.attachment, [made.adapter], rows, 0)[0] for rows in parts]
    found = score(*losses, made.rows.train)
    assert 0 < recall < 1
    assert (found.reply_loss, found.text_loss) == (pytest.approx(means[1], rel=1e-4), pytest.approx(means[2], rel=1e-4))
    assert found.recall == pytest.approx(recall)
    taught = torch.cat(probabilities[:1]).split([len(row.reply) for row in made.rows.train])
    right = {row: bool((chances > 0.5).all()) for row, chances in zip(made.rows.train, taught, strict=True)}
    assert found.whole == "".join("1" if right[row] else "0" for row in by_length(made.rows.train))


@pytest.mark.parametrize("pooling", ["response", "causal"])
@pytest.mark.parametrize("targets", [("q_proj", "up_proj"), "all-linear"])
def test_the_losses_of_several_adapters_are_those_of_each_and_a_prompt_is_read_once_where_it_can_be(pooling, targets):
    model, tokens = tiny_model("llama"), []
    use_grouped_attention(model)
    attachment = attach(model)
    assert attachment.vocabulary  # found by calls of its own
    other = LarsConfig(rank=4, pooling=pooling, chunk=4, target_modules=targets)
    adapters = [adapter_for(model, pooling), shake(LarsAdapter.for_model(model, other), seed=2), None]
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: tokens.append(args[0].numel()))
    each, taken = [], []
    for chosen in (*([adapter] for adapter in adapters), adapters):
        tokens.clear()
        each.append(token_losses(attachment, chosen, some_rows(), 0, plan=MemoryPlan(micro_batch=2)))
        taken.append(sum(tokens))
    for alone, together in zip(each[:-1], each[-1], strict=True):
        torch.testing.assert_close(together, alone[0], rtol=1e-5, atol=1e-5)
    shared = sum(taken[:-1]) - taken[-1]
    assert (shared > 0) == (pooling == "response" and targets == "all-linear")
