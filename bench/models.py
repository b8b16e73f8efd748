"""Base models to measure: installed ones, and those of the named configs in bench/configs with random weights."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from bench.child import call
from lars_agent.errors import ConfigError
from lars_agent.files import make_folder

CONFIGS = {path.stem: path for path in (Path(__file__).parent / "configs").glob("*.json")}
PREFIX = "random-"
SHARD = "256MB"
TINY = "tiny"  # a whole cycle takes seconds; for what must hold whatever the model replies: kills, cuts, full disks
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"<pad>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


@cache
def ready_model(reference: str, dtype: str, device: str, models: Path) -> Path:
    """Fetch or make the base model and open it once in `dtype`, in a process of its own; return its folder.

    `reference` is `default`, a named config, a folder, or the name of an installed model. Raises LarsError.
    """
    return Path(call("bench.models.make_ready", reference, dtype, device, models))


def byte_tokenizer() -> Any:
    """A byte-level tokenizer with a ChatML template; every text can be written in it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = SPECIAL | {letter: len(SPECIAL) + number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **names)


def random_model(name: str, library: Any) -> Path:
    """The installed model `random-<name>` of a named config; made if it is missing, equal for equal configs.

    All but the tiny one have the default model's tokenizer.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lars_agent.models.open import open_tokenizer
    from lars_agent.models.weights import MODEL_FILE

    folder, config = library.folder / (PREFIX + name), AutoConfig.from_pretrained(CONFIGS[name])
    if (folder / MODEL_FILE).is_file():
        return folder
    tokenizer = byte_tokenizer() if name == TINY else open_tokenizer(library.pull("default").folder)
    make_folder(library.folder)
    assert max(tokenizer.get_vocab().values()) < config.vocab_size, f"config {name!r} has too few tokens"
    with tempfile.TemporaryDirectory(dir=library.folder, prefix=".") as scratch:
        made = Path(scratch, folder.name)
        tokenizer.save_pretrained(made)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(made, max_shard_size=SHARD)
        return Path(library.pull(str(made)).folder)


def make_ready(reference: str, dtype: str, device: str, models: str) -> str:
    """See `ready_model`."""
    import torch

    from lars_agent.models.arithmetic import precision
    from lars_agent.models.library import ModelLibrary
    from lars_agent.models.open import open_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU here; leave out --device cuda")
    library = ModelLibrary(Path(models))
    if reference in CONFIGS:
        folder = random_model(reference, library)
    elif (Path(reference) / "config.json").is_file():
        folder = Path(reference)
    else:
        folder = (library.pull if reference == "default" else library.get)(reference).folder
    open_model(folder, *precision(dtype, folder))  # writes the quantized weights beside the others
    return str(folder)
