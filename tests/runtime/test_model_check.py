"""A pull refuses what it would not run right, converts what it can, and tells what cannot be trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaModel

from bench.families import FAMILIES, config_of, row_of, save_family
from lars_agent.errors import ModelIncomplete, ModelUnsupported
from lars_agent.models.library import ModelLibrary
from lars_agent.models.open import open_model
from lars_agent.models.weights import SINGLE_FILE
from lars_agent.runtime.backend import choose_backend
from lars_agent.runtime.model_check import _shorten, check_model
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def rewrite(folder: Path, change) -> Path:
    """The folder with its weights as `change` makes them."""
    save_file(change(load_file(folder / SINGLE_FILE)), folder / SINGLE_FILE, metadata={"format": "pt"})
    return folder


def greedy(folder: Path, source: Path) -> tuple[list[int], list[int]]:
    """Six tokens by our decoding of the checked folder, and by transformers of its source."""
    sequence = (backend := choose_backend(open_model(folder, torch.float32), 0)).start(None, prompt := [5, 9, 7, 30], 6)
    list(sequence.prefill())
    ours = list[int]()
    for _ in range(6):
        ours.append(int(sequence.logits.argmax()))
        backend.step([sequence], ours[-1:])
    model, ids = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval(), list(prompt)
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ours, ids[len(prompt) :]


@pytest.mark.parametrize("family", ["Mixtral", "GPT-NeoX, Pythia"])
def test_weights_under_other_names_are_converted_as_transformers_does(tmp_path, family):
    source, folder = (save_family(family, tmp_path / name) for name in ("source", "folder"))
    with pytest.raises((ModelIncomplete, ModelUnsupported)):
        open_model(folder)
    assert check_model(folder) == ()
    ours, theirs = greedy(folder, source)
    assert ours == theirs


def test_weights_without_the_decoder_s_prefix_are_taken(tmp_path):
    folder = save_tiny(tmp_path / "m")
    model = tiny_model()
    assert isinstance(model.base_model, LlamaModel)
    model.base_model.to(torch.bfloat16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert "embed_tokens.weight" in load_file(folder / SINGLE_FILE)
    assert check_model(folder) == ()
    ids, whole = torch.tensor([[5, 6, 7]]), save_tiny(tmp_path / "whole")
    with torch.no_grad():
        assert torch.equal(open_model(folder).model(ids).logits, open_model(whole).model(ids).logits)


@pytest.mark.parametrize("family", ["Mamba", "RWKV 4", "LFM2", "T5"])
def test_a_model_that_replies_or_learns_otherwise_than_it_should_is_refused(tmp_path, family):
    with pytest.raises(ModelUnsupported, match=r"not supported|cannot reply|no decoder"):
        check_model(save_family(family, tmp_path))


def test_a_model_that_no_adapter_fits_is_installed_and_the_pull_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("lars_agent.models.library.check_folder", check_model)
    told = list[str]()
    installed = ModelLibrary(tmp_path / "models").pull(str(save_family("OPT", tmp_path / "opt")), told.append)
    assert "it replies, but cannot be trained: layer" in told[-1]
    assert ModelLibrary(tmp_path / "models").get("opt") == installed
    assert len(installed.limits) == 1


def fp8(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    made = {}
    for name, weight in weights.items():
        made[name] = weight.to(torch.float8_e4m3fn) if "proj" in name else weight
    return made


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "bitsandbytes", "mxfp4", "compressed-tensors"])
def test_weights_that_the_config_calls_quantized_are_refused_by_name(tmp_path, method):
    folder = save_tiny(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    for refuse in (check_model, open_model):
        with pytest.raises(ModelUnsupported, match=f"quantized by '{method}'"):
            refuse(folder)


def with_scales(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)}


def packed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {re.sub("proj.weight$", "proj.qweight", name): weight for name, weight in weights.items()}


def without_norms(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights.items() if "norm" not in name}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (with_scales, ModelUnsupported, r"up_proj\.weight_scale"),
        (packed, ModelUnsupported, "qweight"),
        (fp8, ModelUnsupported, "float8_e4m3fn"),
        (without_norms, ModelIncomplete, "norm"),
    ],
)
def test_tensors_that_the_model_does_not_take_or_lacks_are_named(tmp_path, change, error, words):
    folder = rewrite(save_tiny(tmp_path), change)
    for refuse in (check_model, open_model):
        with pytest.raises(error, match=words):
            refuse(folder)


@pytest.mark.parametrize("kind", ["special", "word"])
def test_an_embedding_without_rows_for_what_a_conversation_has_is_refused(tmp_path, kind):
    folder, tokenizer = save_tiny(tmp_path), tiny_tokenizer()
    tokenizer.add_tokens([f"<extra {number}>" for number in range(45)], special_tokens=kind == "special")
    assert len(tokenizer) > tiny_model().config.vocab_size
    tokenizer.save_pretrained(folder)
    if kind == "special":
        assert check_model(folder) == ()  # nobody can write them
        tokenizer.chat_template = "<extra 44>" + tokenizer.chat_template
        tokenizer.save_pretrained(folder)
    with pytest.raises(ModelUnsupported, match=r"embedding has 300 rows, .* writes token 30\d"):
        check_model(folder)


def test_only_the_first_layers_are_compared_as_many_as_have_one_of_each_kind():
    model = AutoModelForCausalLM.from_config(config_of("DeepSeek V3"))
    assert _shorten(model)
    assert len(model.model.layers) == 2  # a dense one, and one with experts
    assert not _shorten(model)


def test_the_page_of_families_has_every_one_of_them_and_is_up_to_date(tmp_path):
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(FAMILIES)
    assert len(rows) >= 25
    for family in ("Qwen3", "RWKV 4"):
        assert row_of(family).split(" | ")[:5] == rows[list(FAMILIES).index(family)].split(" | ")[:5]
