"""Which plan a budget gives: pure decisions over shapes."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, MistralConfig, MistralForCausalLM

from lars_agent.errors import BudgetTooSmall
from lars_agent.lars.config import LarsConfig
from lars_agent.lars.inject import LarsAdapter
from lars_agent.lars.packing import can_pack
from lars_agent.models.open import open_model
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.ops.quantized import QuantizedLinear
from lars_agent.planning.estimate import estimate
from lars_agent.planning.planner import choose_plan, ladder, needed_bytes
from lars_agent.planning.shape import ModelShape, shape_of
from lars_agent.planning.workload import BatchSize, Workload, batch_sizes, largest
from tests.tiny import COMMON, save_tiny, tiny_model, tiny_tokenizer

SMOLLM2 = ModelShape(
    layers=30,
    hidden=576,
    intermediate=1536,
    vocabulary=49152,
    query_width=576,
    key_width=192,
    window=None,
    weight_bytes=269_030_016,
    adapted_layers=30,
    adapted_in=149_760,
    adapted_out=155_520,
    ranks=3_360,
    adapter_parameters=7_842_390,
    response=True,
    packed=True,
)
LOAD = Workload((((1024, 128),) * 8,), number_bytes=2, program_bytes=370_000_000)
KINDS = {
    "llama": tiny_model,
    "a sliding window": lambda: MistralForCausalLM(MistralConfig(**COMMON, sliding_window=5)),
    "attention of its own": lambda: FalconForCausalLM(
        FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False)
    ),
}
SMALLEST = MemoryPlan(1, 64, 8, recompute=True, optimizer_bits=8, mlp_tile=64, saved="disk")


def test_without_a_budget_the_fastest_plan_is_chosen() -> None:
    chosen = choose_plan(ladder(SMOLLM2, LOAD, 8), None)
    assert chosen == ladder(SMOLLM2, LOAD, 8)[0]
    assert not chosen.plan.recompute
    assert chosen.relative_time == 1.0
    assert chosen.step_seconds > 0


def test_each_budget_on_the_ladder_gives_its_own_plan_and_one_byte_less_the_next() -> None:
    steps = ladder(SMOLLM2, LOAD, 8)
    assert len(steps) > 5
    for faster, slower in pairwise(steps):
        assert faster.relative_time <= slower.relative_time
        assert choose_plan(ladder(SMOLLM2, LOAD, 8), needed_bytes(faster)) == faster
        assert choose_plan(ladder(SMOLLM2, LOAD, 8), needed_bytes(faster) - 1) == slower


def test_no_chosen_plan_is_predicted_to_pass_its_budget() -> None:
    for budget in range(800_000_000, 3_000_000_000, 100_000_000):
        try:
            assert choose_plan(ladder(SMOLLM2, LOAD, 8), budget).estimate.peak_bytes <= budget
        except BudgetTooSmall:
            assert budget < needed_bytes(ladder(SMOLLM2, LOAD, 8)[-1])


def test_a_budget_too_small_is_refused_with_the_least_that_would_do() -> None:
    least = needed_bytes(ladder(SMOLLM2, LOAD, 8)[-1])
    with pytest.raises(BudgetTooSmall, match=f"at least {least:,} bytes.*the budget leaves 1,000"):
        choose_plan(ladder(SMOLLM2, LOAD, 8), 1_000)
    assert choose_plan(ladder(SMOLLM2, LOAD, 8), least).plan.micro_batch == 1


@pytest.mark.parametrize(
    ("change", "term"),
    [
        ({"steps": (((2048, 128),) * 8,)}, "kv_cache"),
        ({"steps": (((1024, 256),) * 8,)}, "scratch"),
        ({"program_bytes": 500_000_000}, "program"),
    ],
)
def test_more_work_takes_more_of_its_own_term_and_no_less_of_any(change, term) -> None:
    before = asdict(estimate(SMOLLM2, LOAD, SMALLEST))
    after = asdict(estimate(SMOLLM2, replace(LOAD, **change), SMALLEST))
    assert after[term] > before[term]
    assert all(after[name] >= before[name] for name in before)


def test_in_float32_the_cache_is_twice_as_large_and_no_copies_are_left_behind() -> None:
    before, after = (estimate(SMOLLM2, replace(LOAD, number_bytes=size), SMALLEST) for size in (2, 4))
    assert after.kv_cache == 2 * before.kv_cache
    assert after.scratch < before.scratch


def test_in_response_mode_what_grows_with_the_prompt_is_the_cache_and_what_reads_it() -> None:
    short, long = (estimate(SMOLLM2, replace(LOAD, steps=(((tokens, 128),),)), SMALLEST) for tokens in (1024, 8192))
    cache = long.kv_cache - short.kv_cache
    assert cache == 2 * 30 * 192 * (8192 - 1024) * 2
    assert long.peak_bytes - short.peak_bytes <= 1.1 * cache
    sequence = replace(SMOLLM2, response=False, packed=False)
    grown = estimate(sequence, replace(LOAD, steps=(((8192, 128),),)), SMALLEST).peak_bytes
    assert grown - estimate(sequence, LOAD, SMALLEST).peak_bytes > 2 * cache


def test_a_shape_counts_what_the_model_has(tmp_path) -> None:
    model, lars = tiny_model("qwen2"), LarsConfig(rank=4)
    shape = shape_of(save_tiny(tmp_path, "qwen2"), lars)
    assert shape.weight_bytes == 2 * sum(p.numel() for p in model.parameters())
    assert shape.ranks == 4 * 7 * 2
    assert shape.adapter_parameters == sum(p.numel() for p in LarsAdapter.for_model(model, lars).parameters())
    assert (shape.layers, shape.hidden, shape.intermediate, shape.vocabulary) == (2, 32, 48, 300)
    assert (shape.query_width, shape.key_width, shape.window) == (32, 16, None)
    assert (shape.adapted_in, shape.adapted_out) == (2 * (6 * 32 + 48), 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32))


@pytest.mark.parametrize("family", ["gpt2", "phi", "gemma", "mistral"])
def test_every_family_has_a_shape(tmp_path, family) -> None:
    shape = shape_of(save_tiny(tmp_path, family), LarsConfig(pooling="prompt"))
    assert shape.layers == 2
    assert shape.key_width in (16, 32)
    assert not shape.response


@pytest.mark.parametrize(("family", "head"), [("llama", True), ("qwen2", True), ("gemma", False)])
def test_a_quantised_shape_takes_less_and_says_whether_its_head_is(tmp_path, family, head) -> None:
    folder = save_tiny(tmp_path, family)
    whole, small = (shape_of(folder, LarsConfig(), torch.bfloat16, bits) for bits in (None, 4))
    assert small.weight_bytes < whole.weight_bytes
    assert (small.quantized, small.quantized_head) == (True, head)
    assert not whole.quantized_head
    opened = open_model(folder, torch.bfloat16, 4).model
    kinds = [type(opened.get_output_embeddings()) is QuantizedLinear, head]
    assert kinds[0] == kinds[1]


def test_rows_against_words_need_no_chunk_of_all_words() -> None:
    quantized = replace(SMOLLM2, quantized=True, quantized_head=True, vocabulary=10**6)
    assert (
        estimate(quantized, LOAD, SMALLEST).scratch
        < estimate(replace(SMOLLM2, vocabulary=10**6), LOAD, SMALLEST).scratch
    )


def test_packed_examples_take_what_they_are_long_and_padded_ones_what_the_longest_is() -> None:
    lengths = ((1000, 20), (100, 40), (100, 20), (10, 20))
    rows = list(batch_sizes(lengths, 3, packed=True))
    assert rows == [BatchSize(3, 1200, 80, 1000), BatchSize(1, 16, 32, 10)]
    wide = next(batch_sizes(lengths, 3, packed=False))
    assert (wide.prompt, wide.reply) == (3 * 1008, 3 * 48)
    plan, load = MemoryPlan(4), replace(LOAD, steps=(lengths,))
    packed, padded = (estimate(replace(SMOLLM2, packed=packed), load, plan) for packed in (True, False))
    assert packed.kv_cache < 0.4 * padded.kv_cache
    assert packed.peak_bytes < padded.peak_bytes


def test_the_batches_that_really_come_are_planned_for_and_no_others() -> None:
    """Two long examples that never come together need not fit together."""
    apart = (((1600, 16), (16, 16)), ((1600, 16), (16, 16)), ((16, 320), (16, 16)))
    assert largest(apart, 2, packed=True) == (BatchSize(2, 1616, 32, 1600), BatchSize(2, 32, 336, 16))
    together = (((1600, 16), (1600, 16)),)
    plans = [estimate(SMOLLM2, replace(LOAD, steps=steps), MemoryPlan(2)).kv_cache for steps in (apart, together)]
    assert plans[0] < 0.6 * plans[1]


@pytest.mark.parametrize(("pooling", "kind"), [("prompt", "llama"), *(("response", kind) for kind in KINDS)])
def test_what_is_packed_is_planned_so(tmp_path, pooling, kind) -> None:
    """Told from the config alone, it is what the opened model does."""
    KINDS[kind]().save_pretrained(tmp_path)
    opened = open_model(tmp_path, torch.float32, tokenizer=tiny_tokenizer()).model
    expected = pooling == "response" and can_pack(opened)
    assert shape_of(tmp_path, LarsConfig(pooling=pooling)).packed == expected
    assert expected == ((pooling, kind) == ("response", "llama"))


@pytest.mark.parametrize(
    ("family", "dtype", "bits", "row_bytes"),
    [
        ("qwen2", torch.bfloat16, None, 2 * 32),
        ("qwen2", torch.bfloat16, 4, 32 + 2),
        ("qwen2", torch.float32, None, 0),  # converted when it is loaded
        ("llama", torch.bfloat16, None, 0),  # the output head reads every word
    ],
)
def test_words_that_are_never_read_stay_on_the_disk(tmp_path, family, dtype, bits, row_bytes) -> None:
    shape = shape_of(save_tiny(tmp_path, family), LarsConfig(), dtype, bits)
    assert shape.embedding_row_bytes == row_bytes
    large = replace(shape, vocabulary=100_000)
    assert large.unread_bytes(range(100_000)) == 0
    unread = large.unread_bytes([5, 6, 99_000])
    assert unread == (100_000 * row_bytes - 2 * 2**16 if row_bytes else 0)
    load = replace(LOAD, unread_bytes=unread)
    assert estimate(SMOLLM2, LOAD, SMALLEST).weights - estimate(SMOLLM2, load, SMALLEST).weights == unread
