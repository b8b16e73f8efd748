from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lars_agent.errors import ModelCorrupt, ModelIncomplete, ModelNotFound, ModelUnsupported
from lars_agent.lars import LarsConfig
from lars_agent.models.open import GENERATION_FILE, open_model, open_tokenizer
from lars_agent.models.weights import INDEX_FILE, SINGLE_FILE
from lars_agent.planning.shape import shape_of
from lars_agent.runtime.engine import end_tokens
from tests.default_model import default_model_folder
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

FAMILIES = ["llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sharded(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(folder)
    assert (folder / INDEX_FILE).exists()
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_mapped_model_gives_the_logits_of_the_loaded_one(tmp_path, family):
    folder = save_tiny(tmp_path / family, family)
    opened = open_model(folder, torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(opened.model(ids).logits, loaded(ids).logits)
    assert not any(tensor.is_meta for tensor in [*opened.model.parameters(), *opened.model.buffers()])
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())


def test_a_tied_head_is_the_embedding_itself(tmp_path):
    model = open_model(save_tiny(tmp_path / "llama")).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_shards_are_opened_together(tmp_path):
    opened = open_model(sharded(tmp_path / "m"), torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(opened.model(ids).logits, tiny_model("llama")(ids).logits)


def test_a_missing_shard_is_named_and_nothing_is_changed(tmp_path):
    folder = sharded(tmp_path / "m")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    before = snapshot(folder)
    with pytest.raises(ModelIncomplete, match=shard.name):
        open_model(folder)
    assert snapshot(folder) == before


def test_a_shard_that_lacks_weights_is_named(tmp_path):
    folder = sharded(tmp_path / "m")
    index = json.loads((folder / INDEX_FILE).read_text())
    kept = sorted(set(index["weight_map"].values()))[:-1]
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file in kept}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelIncomplete, match=r"lack .* weights"):
        open_model(folder)


def test_the_tokens_that_the_generation_config_lists_end_a_reply(tmp_path):
    folder = save_tiny(tmp_path / "m")
    (folder / GENERATION_FILE).write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert end_tokens(open_model(folder)) == {7, 9, tiny_tokenizer().eos_token_id}


@pytest.mark.parametrize("generation", [None, {"max_new_tokens": 8}], ids=["no file", "a file without them"])
def test_the_tokens_of_config_json_end_a_reply_where_the_generation_config_lists_none(tmp_path, generation):
    folder = save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": [7, 9]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / GENERATION_FILE).unlink()
    if generation is not None:
        (folder / GENERATION_FILE).write_text(json.dumps(generation))
    assert end_tokens(open_model(folder)) == {7, 9, tiny_tokenizer().eos_token_id}


def test_the_token_that_the_template_puts_behind_a_reply_ends_it_whatever_the_configs_say(tmp_path):
    folder = save_tiny(tmp_path / "m")
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token
    tokenizer.save_pretrained(folder)
    (folder / GENERATION_FILE).write_text(json.dumps({"eos_token_id": [7]}))
    assert end_tokens(open_model(folder)) == {7, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}


@pytest.mark.parametrize("content", ["{", "[1]", '{"max_new_tokens": -1}', 100_000 * "["], ids=range(4))
def test_a_generation_config_that_cannot_be_read_is_refused(tmp_path, content):
    folder = save_tiny(tmp_path / "m")
    (folder / GENERATION_FILE).write_text(content)
    with pytest.raises(ModelCorrupt, match=r"generation_config\.json cannot be read"):
        open_model(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer.json", text) for text in ("", "{", '{"model": {"type": "BPE"}}', 100_000 * "[")),
        *(("tokenizer_config.json", text) for text in ("", "{", 100_000 * "[")),
    ],
    ids=range(7),
)
def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path, name, content):
    folder = save_tiny(tmp_path / "m")
    (folder / name).write_text(content)
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=str(folder)):
        open_tokenizer(folder)


@pytest.mark.parametrize("values", [{"intermediate_size": 1e308}, {"hidden_size": -1}, {"model_type": []}])
def test_a_config_that_makes_no_model_is_refused(tmp_path, values):
    folder = save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=str(folder)):
        open_model(folder)


def test_damaged_weights_are_refused(tmp_path):
    folder = save_tiny(tmp_path / "m")
    (folder / SINGLE_FILE).write_bytes((folder / SINGLE_FILE).read_bytes()[:200])
    with pytest.raises(ModelCorrupt, match=SINGLE_FILE):
        open_model(folder)


def test_weights_of_another_shape_are_refused(tmp_path):
    folder = save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelCorrupt, match=r"do not fit its config\.json"):
        open_model(folder)


def test_an_empty_folder_a_model_without_template_and_without_tokenizer_are_refused(tmp_path):
    with pytest.raises(ModelNotFound, match="lars-agent model pull"):
        open_model(tmp_path)
    folder = save_tiny(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelUnsupported, match="chat template"):
        open_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelIncomplete, match=r"tokenizer\.json"):
        open_model(folder)


@pytest.mark.real_model
def test_a_second_process_shares_the_pages_of_the_weights():
    child = (
        "import sys, torch; from pathlib import Path; from lars_agent.models.open import open_model\n"
        "opened = open_model(Path(sys.argv[1]))\n"
        "sum(float(p.sum()) for p in opened.model.parameters())\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
    )
    folder = default_model_folder()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", child, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            rss, pss = mapped_kib(process.pid, SINGLE_FILE)
            assert rss * 1024 > 0.9 * (folder / SINGLE_FILE).stat().st_size
            assert pss < 0.6 * rss
    finally:
        for process in processes:
            process.communicate("\n", timeout=60)


def mapped_kib(pid: int, name: str) -> tuple[int, int]:
    """Rss and Pss, in KiB, of the mappings of the file `name` in the process `pid`."""
    rss = pss = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            inside = line.rstrip().endswith(name)
        elif inside and first == "Rss:":
            rss += int(line.split()[1])
        elif inside and first == "Pss:":
            pss += int(line.split()[1])
    return rss, pss


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 2**40),
        ("num_hidden_layers", 10**9),
        ("vocab_size", 2**50),
        ("num_attention_heads", 0),
        ("num_attention_heads", -4),
        ("intermediate_size", 2**60),
        ("max_position_embeddings", 2**60),
        ("head_dim", 2**30),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_made(tiny_folders, tmp_path, family, field, value):
    shutil.copytree(tiny_folders / family, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    gpt2 = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    gpt2 |= {"max_position_embeddings": "n_positions", "intermediate_size": "n_inner"}
    config[gpt2.get(field, field) if family == "gpt2" else field] = value
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    for reader in (open_model, shape):
        with pytest.raises(ModelUnsupported):
            reader(tmp_path / "m")


def shape(folder: Path):
    return shape_of(folder, LarsConfig())


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for family in ("llama", "gpt2"):
        save_tiny(folder / family, family)
    return folder


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "7", "null", "{"])
def test_a_config_that_is_none_is_refused(tiny_folders, tmp_path, text):
    shutil.copytree(tiny_folders / "llama", tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(text)
    with pytest.raises(ModelCorrupt, match=r"config\.json cannot be read"):
        open_model(tmp_path / "m")


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path):
    folder = sharded(tmp_path / "m")
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../../other.safetensors")
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelCorrupt, match="no file of its folder"):
        open_model(folder)
