"""Base models to measure: installed ones, and those of the named configs in bench/configs with random weights.

`python -m bench.models REFERENCE DTYPE DEVICE MODELS` makes one ready in a process of its own: the process that samples
a cell must not map torch, because pages that two processes share are no longer private to one.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.child import run_module
from lars_agent.errors import ConfigError, LarsError
from lars_agent.files import make_folder, publish_folder, write_atomically

CONFIGS = {path.stem: path for path in (Path(__file__).parent / "configs").glob("*.json")}
PREFIX = "random-"
SHARD = "256MB"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
TINY = "tiny"  # a whole cycle takes seconds; for what must hold whatever the model replies: kills, cuts, full disks
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"<pad>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def ready_model(reference: str, dtype: str, device: str, models: Path) -> Path:
    """Fetch or make the base model and open it once in `dtype`; return its folder.

    `reference` is `default`, a named config, a folder, or the name of an installed model. Raises LarsError.
    """
    return Path(run_module("bench.models", reference, dtype, device, models))


def byte_tokenizer() -> Any:
    """A byte-level tokenizer with a ChatML template; every text can be written in it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = SPECIAL | {letter: len(SPECIAL) + number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    return make(tokenizer_object=tokenizer, chat_template=TEMPLATE, **names)


def random_model(name: str, library: Any) -> Path:
    """The installed model `random-<name>` of a named config; made if it is missing, whole or not at all.

    All but the tiny one have the default model's tokenizer.
    """
    from lars_agent.models.weights import MODEL_FILE

    folder, temp = library.folder / (PREFIX + name), library.folder / f".{PREFIX}{name}.tmp"
    if not (folder / MODEL_FILE).is_file():
        shutil.rmtree(temp, ignore_errors=True)
        try:
            make_folder(temp)
            if name == TINY:
                byte_tokenizer().save_pretrained(temp)
            else:
                tokenizer = library.pull("default").folder
                for file in (tokenizer / file for file in TOKENIZER_FILES if (tokenizer / file).is_file()):
                    shutil.copyfile(file, temp / file.name)
            _write_weights(temp, name, str(folder.absolute()))
            publish_folder(temp, folder)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
    return folder


def _write_weights(folder: Path, name: str, reference: str) -> None:
    """Write config, weights and record; equal for equal configs. Raises ConfigError for a tokenizer with more ids."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lars_agent.models.weights import MODEL_FILE, weight_files, weights_digest

    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    highest = max([*words["model"]["vocab"].values(), *(token["id"] for token in words["added_tokens"])])
    config = AutoConfig.from_pretrained(CONFIGS[name])
    if highest >= config.vocab_size:
        raise ConfigError(
            f"config {name!r} has {config.vocab_size:,} tokens, the tokenizer's highest id is {highest:,}"
        )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=SHARD)
    digest, size = weights_digest(weight_files(folder)), sum(path.stat().st_size for path in folder.iterdir())
    record = {"name": PREFIX + name, "reference": reference, "revision": None, "sha256": digest, "bytes": size}
    write_atomically(folder / MODEL_FILE, json.dumps(record | {"installed": ""}, indent=2) + "\n")


def _ready(reference: str, dtype: str, device: str, models: Path) -> Path:
    import torch

    from lars_agent.models.library import ModelLibrary
    from lars_agent.models.open import open_model, precision

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU here; leave out --device cuda")
    library = ModelLibrary(models)
    if reference in CONFIGS:
        folder = random_model(reference, library)
    elif (Path(reference) / "config.json").is_file():
        folder = Path(reference)
    else:
        folder = (library.pull if reference == "default" else library.get)(reference).folder
    open_model(folder, *precision(dtype))  # writes the quantized weights beside the others
    return folder


if __name__ == "__main__":
    try:
        print(_ready(*sys.argv[1:4], Path(sys.argv[4])))
    except LarsError as error:
        sys.exit(str(error))
