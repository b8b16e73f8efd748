"""Attach and detach, save and load are exact inverses; modules are chosen as PEFT users expect."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lars_agent.errors import AdapterCorrupt, AdapterIncompatible, ConfigError, StateMismatch
from lars_agent.lars import LarsAdapter, LarsConfig, attach, load_adapter, save_adapter
from lars_agent.lars.forward import reply_hidden
from lars_agent.lars.inject import target_shapes
from lars_agent.lars.state import CONFIG_FILE, WEIGHTS_FILE, load_state
from lars_agent.training.batches import collate
from tests.lars.conftest import shake
from tests.lars.test_serving import rows
from tests.tiny import adapter_state, tiny_model


def test_detach_leaves_the_model_byte_for_byte_and_hook_for_hook():
    model = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7]])
    keys = list(model.state_dict())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        logits = model(ids).logits
    attach(model).detach()
    assert list(model.state_dict()) == keys
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)


def test_attach_freezes_every_weight_of_the_base_model():
    model = tiny_model("llama").requires_grad_(True)
    attach(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_all_linear_leaves_out_the_head_and_knows_conv1d():
    llama = target_shapes(tiny_model("llama"), LarsConfig())
    assert {name.rsplit(".", 1)[-1] for name in llama} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    gpt2 = target_shapes(tiny_model("gpt2"), LarsConfig())
    assert gpt2["transformer.h.0.attn.c_attn"] == (32, 96)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_proj",), {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}),
        (("layers.1.mlp.up_proj",), {"model.layers.1.mlp.up_proj"}),
        (r".*layers\.0\.mlp\..*", {f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")}),
    ],
)
def test_target_modules_by_name_and_by_regular_expression(targets, expected):
    assert set(target_shapes(tiny_model("llama"), LarsConfig(target_modules=targets))) == expected


def test_target_that_matches_nothing_names_what_there_is():
    with pytest.raises(ConfigError, match=r"matches no layer; the model has .*q_proj"):
        target_shapes(tiny_model("llama"), LarsConfig(target_modules=("query",)))


def test_fresh_adapters_are_the_same_for_the_same_seed_and_leave_the_global_rng_alone():
    model = tiny_model("llama")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, other = (adapter_state(LarsAdapter.for_model(model, LarsConfig(), seed=7)) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("pooling", ["sequence", "learned", "prompt", "response", "causal"])
def test_save_and_load_are_exact_inverses(tmp_path, pooling):
    model = tiny_model("llama")
    config = LarsConfig(rank=3, pooling=pooling, target_modules=("q_proj", "down_proj"), token_term=False)
    adapter = shake(LarsAdapter.for_model(model, config))
    save_adapter(adapter, tmp_path, base_model="tiny", revision="abc")
    loaded = load_adapter(model, tmp_path)
    assert loaded.config == config
    assert not loaded.training
    one, other = adapter_state(adapter), adapter_state(loaded)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    record = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert record["peft_type"] == "LARS"
    assert record["base_model_name_or_path"] == "tiny"
    assert record["revision"] == "abc"


def test_state_with_a_missing_an_extra_or_a_misshapen_tensor_is_refused_and_nothing_is_loaded():
    adapter = shake(LarsAdapter.for_model(tiny_model("llama"), LarsConfig(rank=2)))
    before = adapter_state(adapter)
    key = sorted(before)[0]
    for bad in (
        {k: v for k, v in before.items() if k != key},
        before | {"elsewhere.up": torch.zeros(1)},
        before | {key: torch.zeros(1, 1)},
    ):
        changed = {k: v + 1 for k, v in bad.items()}
        with pytest.raises(StateMismatch, match="adapter tensor"):
            load_state(adapter, changed)
        after = adapter_state(adapter)
        assert all(torch.equal(after[k], before[k]) for k in before)


def test_adapter_of_another_base_model_is_refused(tmp_path):
    save_adapter(LarsAdapter.for_model(tiny_model("llama"), LarsConfig()), tmp_path, base_model="tiny", revision=None)
    with pytest.raises(AdapterIncompatible, match="another base model"):
        load_adapter(tiny_model("gpt2"), tmp_path)


def test_damaged_files_are_refused(tmp_path):
    model = tiny_model("llama")
    save_adapter(LarsAdapter.for_model(model, LarsConfig()), tmp_path, base_model="tiny", revision=None)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(AdapterCorrupt, match=WEIGHTS_FILE):
        load_adapter(model, tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(AdapterCorrupt, match=CONFIG_FILE):
        load_adapter(model, tmp_path)


def test_tensors_outside_the_config_are_refused(tmp_path):
    model = tiny_model("llama")
    save_adapter(LarsAdapter.for_model(model, LarsConfig()), tmp_path, base_model="tiny", revision=None)
    state = load_file(tmp_path / WEIGHTS_FILE)
    save_file(state | {"stowaway": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(AdapterIncompatible, match="stowaway"):
        load_adapter(model, tmp_path)


@pytest.mark.parametrize(("top", "layers"), [(0, {"0", "1"}), (1, {"1"}), (2, {"0", "1"}), (9, {"0", "1"})])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_the_last_layers_alone_are_adapted_where_that_is_asked(family, top, layers):
    names = target_shapes(tiny_model(family), LarsConfig(top_layers=top))
    assert {next(part for part in name.split(".") if part.isdigit()) for name in names} == layers


def test_below_the_layers_that_are_adapted_nothing_enters_autograd():
    model = tiny_model("llama")
    adapter = LarsAdapter.for_model(model, LarsConfig(top_layers=1))
    wants_gradient = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, args, output: wants_gradient.append(output.requires_grad))
    reply_hidden(attach(model), adapter, collate(rows(), 0))
    assert wants_gradient[-2:] == [False, True]


@pytest.mark.parametrize(
    "bad",
    [{"rank": 0}, {"dropout": 1.0}, {"pooling": "mean"}, {"chunk": 0}, {"target_modules": ()}, {"top_layers": -1}],
)
def test_impossible_config_is_refused(bad):
    with pytest.raises(ConfigError, match=r"lars\."):
        LarsConfig(**bad)
