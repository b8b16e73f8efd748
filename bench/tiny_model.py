"""A decoder so small that a whole cycle takes seconds: random weights, a byte-level tokenizer, a chat template.

For what must hold whatever the model says: kills, power cuts, full disks. Nothing is measured of its replies.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from lars_agent.errors import LarsError

NAME = "tiny"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"<pad>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": SPECIAL["<pad>"],
    "bos_token_id": SPECIAL["<|im_start|>"],
    "eos_token_id": SPECIAL["<|im_end|>"],
    "tie_word_embeddings": True,
    "initializer_range": 0.3,  # so that logits are far enough apart to be learned and told apart
}


def installed_tiny(folder: Path) -> Path:
    """A Hugging Face folder of the model in `folder`; `<folder>/models` is a library that has it installed."""
    command = [sys.executable, "-P", "-m", "bench.tiny_model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LarsError(f"the tiny model could not be made: {done.stderr.strip().splitlines()[-1]}")
    return folder / NAME


def main(arguments: list[str]) -> int:
    """A process of its own, so that whoever kills daemons need not hold torch; the exit status."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lars_agent.models.library import ModelLibrary

    folder = Path(arguments[0])
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.to(torch.bfloat16).save_pretrained(folder / NAME)
    byte_tokenizer().save_pretrained(folder / NAME)
    ModelLibrary(folder / "models").pull(str(folder / NAME))
    return 0


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
