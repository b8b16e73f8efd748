"""Tiny random decoders, one per architecture we say we adapt, and a tokenizer that fits them.

The numbers mean nothing; the shapes are real: grouped-query attention, tied heads, two layers, hidden 32, vocabulary 128.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

Kind = Literal["llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2"]
KINDS: tuple[Kind, ...] = ("llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2")

VOCABULARY = 128
SPECIAL_TOKENS = ("<unk>", "<|im_start|>", "<|im_end|>")
UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
WORDS = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_config(kind: Kind = "llama", **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny decoder of that architecture; `changes` override its fields."""
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
    if kind == "gpt2":
        return GPT2Config(
            **{"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512} | ids | changes
        )
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": kind in ("llama", "gemma", "qwen2"),
    }
    own: dict[str, dict[str, Any]] = {
        "qwen3": {"head_dim": 8},
        "gemma": {"head_dim": 8},
        "mistral": {"sliding_window": None, "head_dim": 8},
    }
    configs = {
        "llama": LlamaConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "gemma": GemmaConfig,
        "phi": PhiConfig,
        "mistral": MistralConfig,
    }
    return configs[kind](**common | ids | own.get(kind, {}) | changes)


def tiny_model(kind: Kind = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A float32 decoder in eval mode with random weights that depend only on `seed`; torch's own seed is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes), dtype=torch.float32)
        spread_logits(model)
    return model.eval()


def spread_logits(model: PreTrainedModel) -> None:
    """Makes the random weights large enough that prompts tell apart: with the usual 0.02 every prompt predicts alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 1.5 * parameter.shape[1] ** -0.5)


def tiny_vocabulary() -> list[str]:
    """128 tokens: three special ones, the roles, every printable ASCII character, and unused ones to fill up."""
    characters = [character for character in string.printable if character.isprintable()] + ["\n"]
    tokens = [*SPECIAL_TOKENS, *WORDS, *characters]
    return tokens + [f"<unused{index}>" for index in range(VOCABULARY - len(tokens))]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character (and per role's name); decoding gives the text back; ChatML chat template."""
    vocabulary = {token: index for index, token in enumerate(tiny_vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"system|user|assistant|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_tiny(folder: Path, kind: Kind = "llama", seed: int = 0, *, max_shard_size: str = "5GB") -> Path:
    """A Hugging Face folder: weights, tokenizer and chat template. `max_shard_size="20KB"` makes it several shards."""
    tiny_model(kind, seed).save_pretrained(folder, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def shards(folder: Path) -> list[Path]:
    """The weight files of a saved model, as its index names them (or the only one)."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
