"""Adapter files that somebody else wrote: refused in words, at once, and before memory is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from lars_agent.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, ConfigError, StateMismatch
from lars_agent.files import write_atomically
from lars_agent.lars import LarsAdapter, LarsConfig, load_adapter, save_adapter
from lars_agent.lars.inject import target_shapes, targeted
from lars_agent.lars.state import CONFIG_FILE, WEIGHTS_FILE, adapter_tensors
from lars_agent.ops.safetensors_io import tensor_file
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture
def folder(model, tmp_path) -> Path:
    save_adapter(LarsAdapter.for_model(model, LarsConfig(rank=4)), tmp_path, base_model="tiny", revision=None)
    return tmp_path


def rewrite(folder: Path, model, change) -> None:
    """Write the weights anew, the first tensor of them changed."""
    state = dict(adapter_tensors(LarsAdapter.for_model(model, LarsConfig(rank=4))))
    key = next(name for name, tensor in state.items() if tensor.dim() == 2)
    write_atomically(folder / WEIGHTS_FILE, tensor_file(state | {key: change(state[key].clone())}))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e30, -1e7])
def test_numbers_that_no_training_makes_are_refused(model, folder, number):
    rewrite(folder, model, lambda tensor: tensor.index_fill_(0, torch.tensor([1]), number))
    with pytest.raises(AdapterCorrupt, match=r"has the number .*at most 1e\+06 makes sense; activate another version"):
        load_adapter(model, folder)


def test_whole_numbers_are_refused(model, folder):
    rewrite(folder, model, lambda tensor: tensor.to(torch.int64))
    with pytest.raises(AdapterCorrupt, match=r"torch\.int64"):
        load_adapter(model, folder)


def test_a_training_that_ran_away_saves_nothing(model, tmp_path):
    adapter = LarsAdapter.for_model(model, LarsConfig(rank=4))
    with torch.no_grad():
        next(adapter.parameters()).fill_(float("nan"))
    with pytest.raises(StateMismatch, match="has the number nan"):
        save_adapter(adapter, tmp_path / "out", base_model="tiny", revision=None)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rank", 2**40, "rank: .*less than or equal to 4096"),
        ("chunk", 2**40, "chunk"),
        ("top_layers", 2**40, "top_layers"),
        ("scale", 1e30, "scale"),
        ("target_modules", "(", "target_modules.*no regular expression"),
        ("target_modules", "a" * 10_000, "target_modules.*longer than"),
        ("target_modules", "(a|a)*" * 200, "target_modules"),
    ],
)
def test_absurd_configurations_are_refused(model, folder, field, value, words):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(AdapterIncompatible, match=words):
        load_adapter(model, folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 200 + "]" * 200])
def test_deeply_nested_json_is_refused(model, folder, text):
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(AdapterError):
        load_adapter(model, folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
def test_only_plain_files_are_opened(model, folder, tmp_path_factory, name, kind):
    path = folder / name
    elsewhere = tmp_path_factory.mktemp("elsewhere") / name
    path.rename(elsewhere)
    if kind == "pipe":
        os.mkfifo(path)  # nobody will ever write to it
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(elsewhere if kind == "link" else "/dev/zero")
    with pytest.raises(AdapterCorrupt, match=f"{name} cannot be read"):
        load_adapter(model, folder)


def test_a_pattern_is_pefts_whole_name_and_one_that_takes_too_long_is_refused(model):
    names = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]
    assert targeted(names, LarsConfig(target_modules=r".*\.(q|k)_proj")) == {names[0]}
    assert targeted(names, LarsConfig(target_modules="q_proj")) == set()
    assert targeted(names, LarsConfig(target_modules=("q_proj",))) == {names[0]}
    assert targeted(names, LarsConfig(target_modules=r".*(?<!up)_proj")) == {names[0]}
    with pytest.raises(ConfigError, match=r"longer than 0.5 s .*give names instead"):
        target_shapes(model, LarsConfig(target_modules=r"(.|[a-z.]|\w)*[A-Z]"))
