"""Tiny random decoders of every family we support, and a folder with one, a tokenizer and a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from bench.models import byte_tokenizer
from lars_agent.lars import LarsAdapter
from lars_agent.lars.state import adapter_tensors

Family = Literal["llama", "qwen2", "qwen3", "gemma", "phi", "mistral", "gpt2"]
VOCABULARY = 300
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # so that logits are far enough apart to be learned and told apart
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**COMMON, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**COMMON),
    "qwen3": lambda: Qwen3Config(**COMMON, head_dim=8),
    "gemma": lambda: GemmaConfig(**COMMON, head_dim=8),
    "phi": lambda: PhiConfig(**COMMON),
    "mistral": lambda: MistralConfig(**COMMON, sliding_window=None),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    ),
}


def tiny_model(kind: Family = "llama", seed: int = 0) -> PreTrainedModel:
    """A random float32 decoder of two layers, with grouped-query attention where the family has it."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[kind]())
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a ChatML template; every text can be written in it."""
    return byte_tokenizer()


def save_tiny(folder: Path, kind: Family = "llama", seed: int = 0) -> Path:
    """`folder` holds a tiny model with its tokenizer, as a Hugging Face folder in bfloat16."""
    tiny_model(kind, seed).to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_roomy(folder: Path, kind: Family = "llama") -> Path:
    """A tiny model as `save_tiny` makes it, with a context of 4,096 tokens."""
    config = save_tiny(folder, kind) / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(values | {"max_position_embeddings": 4096}), encoding="utf-8")
    return folder


def adapter_state(adapter: LarsAdapter) -> dict[str, torch.Tensor]:
    """Copies of the adapter's tensors, keyed `<layer name>.<parameter>`."""
    return {name: tensor.clone() for name, tensor in adapter_tensors(adapter).items()}
