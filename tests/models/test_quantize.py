"""Models opened from quantised weights, of every family, and the file that they are opened from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lars_agent.errors import ModelCorrupt
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.models.open import open_model
from lars_agent.models.weights import SINGLE_FILE
from lars_agent.ops.quantized import QuantizedEmbedding, QuantizedLinear
from lars_agent.training.batches import collate
from lars_agent.training.evaluate import token_nll
from tests.lars.test_serving import rows
from tests.tiny import save_tiny

FAMILIES = ["llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2"]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@torch.no_grad()
def dense_twin(folder, model):
    """The model with the numbers that its quantised weights mean, as an ordinary one."""
    twin = open_model(folder, torch.float32).model
    tied = twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            own = twin.get_submodule(name)
            own.weight = torch.nn.Parameter(module.weight.clone(), requires_grad=False)
    if tied:
        twin.get_output_embeddings().weight = twin.get_input_embeddings().weight
    return twin


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_it_computes_what_its_weights_mean(tmp_path, family, bits):
    folder = save_tiny(tmp_path / "m", family)
    model = open_model(folder, torch.float32, bits).model
    assert any(isinstance(module, QuantizedEmbedding | QuantizedLinear) for module in model.modules())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    torch.testing.assert_close(model(IDS).logits, dense_twin(folder, model)(IDS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_an_adapter_gets_the_gradients_of_the_weights_as_stored(tmp_path, bits):
    folder = save_tiny(tmp_path / "m")
    model = open_model(folder, torch.float32, bits).model
    gradients = []
    for base in (model, dense_twin(folder, model)):
        adapter = LarsAdapter.for_model(base, LarsConfig(rank=4, dropout=0.0))
        torch.nn.init.normal_(adapter.layers[0].up, generator=torch.Generator().manual_seed(0))
        token_nll(attach(base), adapter, collate(rows(), 0)).sum().backward()
        gradients.append({name: p.grad for name, p in adapter.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-4)


def test_the_file_is_made_once_and_mapped(tmp_path):
    folder = save_tiny(tmp_path / "m")
    open_model(folder, torch.float32, 4)
    made = next(folder.glob("model-int4-*.safetensors"))
    before = made.stat().st_mtime_ns
    model = open_model(folder, torch.float32, 4).model
    assert made.stat().st_mtime_ns == before
    assert made.stat().st_size < (folder / SINGLE_FILE).stat().st_size
    assert model.get_output_embeddings().packed.data_ptr() == model.get_input_embeddings().packed.data_ptr()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_in_16_bits_the_models_own_file_is_mapped_and_its_numbers_are_those_of_whole_weights(tmp_path, family):
    folder = save_tiny(tmp_path / "m", family)
    before = {path.name for path in folder.iterdir()}
    whole, narrow = (open_model(folder, torch.float32, bits).model for bits in (None, 16))
    assert {path.name for path in folder.iterdir()} == before
    packed = [module.packed for module in narrow.modules() if isinstance(module, QuantizedEmbedding | QuantizedLinear)]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [map_[0].split("-") for map_ in maps if map_[-1] == str(folder / SINGLE_FILE)]
    for tensor in packed:
        assert tensor.dtype == torch.bfloat16
        assert any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in spans)
    torch.testing.assert_close(narrow(IDS).logits, whole(IDS).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_in_16_bits_a_head_that_the_file_repeats_is_not_read(tmp_path):
    folder = save_tiny(tmp_path / "m")
    weights = load_file(folder / SINGLE_FILE)
    assert "lm_head.weight" not in weights
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / SINGLE_FILE)
    for bits in (None, 16):
        model = open_model(folder, torch.float32, bits).model
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        own = [getattr(module, "packed", module._parameters.get("weight")) for module in (head, embedding)]
        assert own[0].data_ptr() == own[1].data_ptr()


def test_other_weights_get_another_file(tmp_path):
    folder = save_tiny(tmp_path / "m", seed=0)
    first = open_model(folder, torch.float32, 8).model(IDS).logits
    save_tiny(folder, seed=1)
    second = open_model(folder, torch.float32, 8).model(IDS).logits
    assert len(list(folder.glob("model-int8-*.safetensors"))) == 2
    assert not torch.allclose(first, second, atol=0.1)


def test_a_torn_source_is_refused_and_no_file_is_left(tmp_path):
    folder = save_tiny(tmp_path / "m")
    content = (folder / SINGLE_FILE).read_bytes()
    (folder / SINGLE_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelCorrupt, match="pull the model again"):
        open_model(folder, torch.float32, 4)
    assert not list(folder.glob("*int4*"))
