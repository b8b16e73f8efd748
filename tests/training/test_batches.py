from __future__ import annotations

import pytest

from lars_agent.errors import ExampleTooLong, ModelUnsupported
from lars_agent.example import Message
from lars_agent.models.chat_template import encode_prompt
from lars_agent.training.batches import Encoded, batch_indices, collate, encode, encode_text
from tests.tiny import tiny_tokenizer
from tests.training.conftest import fact


def test_prompt_and_reply_together_are_the_template_s_own_text():
    tokenizer, example = tiny_tokenizer(), fact("Who am I?", "Mara.")
    encoded = encode(tokenizer, example, 500)
    reply = Message(role="assistant", content="Mara.")
    whole = tokenizer.apply_chat_template([*example.messages, reply], tokenize=False)
    assert tokenizer.decode([*encoded.prompt, *encoded.reply]) + "\n" == whole
    assert list(encoded.prompt) == encode_prompt(tokenizer, example.messages)
    assert tokenizer.decode(encoded.reply) == "Mara.<|im_end|>"


def test_a_reply_that_names_the_end_token_keeps_its_own_end_too():
    encoded = encode(tiny_tokenizer(), fact("Q", "It is <|im_end|> there."), 500)
    assert tiny_tokenizer().decode(encoded.reply).endswith("there.<|im_end|>")


def test_example_over_the_limit_is_refused_with_its_length():
    with pytest.raises(ExampleTooLong, match=r"has \d+ tokens, the limit is 20"):
        encode(tiny_tokenizer(), fact("Q", "a" * 50), 20)


def test_a_template_that_rewrites_the_prompt_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelUnsupported, match="template"):
        encode(tokenizer, fact("Q", "A"), 100)


def test_collate_pads_prompts_left_and_replies_right():
    batch = collate([Encoded((5, 6, 7), (8,), 1.0, ""), Encoded((9,), (4, 3), 0.5, "")], 0)
    assert batch.prompt_ids[:, -3:].tolist() == [[5, 6, 7], [0, 0, 9]]
    assert batch.prompt_mask[:, -3:].tolist() == [[True] * 3, [False, False, True]]
    assert batch.reply_ids[:, :2].tolist() == [[8, 0], [4, 3]]
    assert batch.reply_mask[:, :2].tolist() == [[True, False], [True, True]]
    assert batch.weight.tolist() == [1.0, 0.5]
    assert batch.reply_tokens == 3


@pytest.mark.parametrize(("tokens", "width"), [(1, 16), (16, 16), (17, 32)])
def test_widths_come_in_steps_so_that_few_shapes_are_ever_compiled(tokens, width):
    batch = collate([Encoded((5,) * tokens, (8,) * tokens, 1.0, "")], 0)
    assert (batch.prompt_ids.shape, batch.reply_ids.shape) == ((1, width), (1, width))
    assert (int(batch.prompt_mask.sum()), batch.reply_tokens) == (tokens, tokens)
    assert not batch.prompt_mask[0, : width - tokens].any()
    assert not batch.reply_mask[0, tokens:].any()


def test_plain_text_is_predicted_from_its_first_half():
    encoded = encode_text(tiny_tokenizer(), "abcdef", "t")
    assert tiny_tokenizer().decode(encoded.prompt) == "abc"
    assert tiny_tokenizer().decode(encoded.reply) == "def"


@pytest.mark.parametrize(("count", "size"), [(7, 3), (4, 4), (3, 8), (10, 1)])
def test_every_epoch_reads_each_row_once_in_another_order(count, size):
    steps = count * 2
    read = [index for step in range(steps) for _, index in batch_indices(count, size, step, seed=1)]
    epochs = [read[start : start + count] for start in range(0, len(read) - count + 1, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1 or count < 3


def test_order_depends_on_the_seed_alone():
    assert batch_indices(20, 6, 3, seed=1) == batch_indices(20, 6, 3, seed=1)
    assert batch_indices(20, 6, 3, seed=1) != batch_indices(20, 6, 3, seed=2)
