"""Tiny random models of many families, and a table of what lars-agent can do with each: `python -m bench families`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from bench.models import byte_tokenizer
from lars_agent.errors import LarsError
from lars_agent.example import Message
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.models.tools import ToolUse, definition
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.fast_decoder import build_fast_decoder
from lars_agent.runtime.model_check import check_model
from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.adapters import AdapterStore

WINDOW = 16  # tokens, fewer than are compared
SPREAD = 4.0  # of random weights, so that a mistake in attention shows
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_GROUPS = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
HEADS = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2}
GPT2_SIZES = {"vocab_size": 300, "n_embd": 64, "n_layer": 4, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
# Name as people know it: the class of its config, and its fields.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Llama 2, 3, SmolLM2": ("LlamaConfig", SIZES),
    "Llama 3.1, long contexts": (
        "LlamaConfig",
        SIZES | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "Mistral": ("MistralConfig", SIZES | {"sliding_window": WINDOW}),
    "Mixtral": ("MixtralConfig", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2, Qwen2.5": ("Qwen2Config", SIZES),
    "Qwen3": ("Qwen3Config", SIZES | HEADS),
    "Qwen3 MoE": ("Qwen3MoeConfig", SIZES | HEADS | EXPERTS),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        SIZES
        | HEADS
        | EXPERTS
        | {
            "shared_expert_intermediate_size": 48,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    "Gemma": ("GemmaConfig", SIZES | HEADS),
    "Gemma 2": ("Gemma2Config", SIZES | HEADS | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "Gemma 3 (text)": ("Gemma3TextConfig", SIZES | HEADS | MIXED | {"sliding_window": WINDOW}),
    "Phi-2": ("PhiConfig", SIZES),
    "Phi-3, Phi-4": ("Phi3Config", SIZES | {"sliding_window": WINDOW}),
    "SmolLM3": ("SmolLM3Config", SIZES | {"no_rope_layers": [1, 0, 1, 0]}),
    "Granite": ("GraniteConfig", SIZES | {"logits_scaling": 4.0, "residual_multiplier": 0.3}),
    "Cohere": ("CohereConfig", SIZES),
    "OLMo 2": ("Olmo2Config", SIZES),
    "StableLM": ("StableLmConfig", SIZES),
    "StarCoder 2": ("Starcoder2Config", SIZES),
    "Falcon": ("FalconConfig", NO_GROUPS),
    "Falcon-H1": (
        "FalconH1Config",
        SIZES | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1},
    ),
    "LFM2": ("Lfm2Config", SIZES | {"layer_types": ["conv", "full_attention"] * 2}),
    "gpt-oss": (
        "GptOssConfig",
        SIZES | HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "DeepSeek V3": (
        "DeepseekV3Config",
        SIZES
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 48,
            "first_k_dense_replace": 1,
        },
    ),
    "GPT-2": ("GPT2Config", GPT2_SIZES),
    "GPT-NeoX, Pythia": ("GPTNeoXConfig", NO_GROUPS),
    "OPT": ("OPTConfig", NO_GROUPS | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "BLOOM": ("BloomConfig", {"vocab_size": 300, "hidden_size": 64, "n_layer": 4, "n_head": 4}),
    "Mamba": ("MambaConfig", {"vocab_size": 300, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 4}),
    "RWKV 4": ("RwkvConfig", {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "context_length": 512}),
    "RecurrentGemma": (
        "RecurrentGemmaConfig",
        SIZES
        | HEADS
        | {"num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 64, "attention_window_size": WINDOW},
    ),
    "T5": ("T5Config", {"vocab_size": 300, "d_model": 64, "d_ff": 96, "num_layers": 2, "num_heads": 4, "d_kv": 16}),
}
INTRODUCTION = """\
# Model families

<!-- Generated by `python -m bench families > docs/models.md`. -->

Each row is a tiny model of the family with random weights, pulled and checked as any other is. A pull compares the
replies, token by token, and the way training reads examples with the model's plain forward pass, and refuses a model
for which they differ. A family that is not here is checked in the same way: `lars-agent model pull` tells.

- **replies**: the model is served. **fast decoder**: by the decoder with a prefix cache and batches.
- **tools**: a call that is demanded of the model came back ([tools.md](tools.md)).
- **trains**: an adapter can be trained on it.
- Weights may be float32, float16 or bfloat16. Quantized ones (fp8, GPTQ, AWQ, bitsandbytes, MXFP4) are refused;
  `model.dtype` int8 or int4 quantizes whole ones. Weights under older names, and experts one by one, are converted when
  the model is pulled. Adapters do not change experts, which are one tensor and no linear layers.
- The chat template decides too: one that begins a reply with `<think>` and leaves it out of the conversation is good
  for replies only, one that does not show what the user says is refused. The pull tells.

## Pulling a model

`lars-agent model pull org/name` (or `org/name@revision`, `default`, a folder, a `.gguf` file) first says what the
model needs of network, disk and memory, for replies and for training; with `--dry-run` it fetches nothing. The page
Settings does the same.

- The revision is resolved to its commit, which is recorded with the model. Of a repository only the model's own files
  are fetched: `config.json`, the tokenizer, the chat template, and the safetensors that its index names.
- A pull that was cut off, or killed, goes on where it was when it is run again. Every file is checked against the
  hub's digest.
- Without room on the disk for all of it nothing is fetched; should the disk fill meanwhile, the file that filled it
  is removed. A model is installed whole and checked, or not at all.
- A gated or private model needs a token of the hub: `HF_TOKEN`, the file that `HF_TOKEN_PATH` names, or the one that
  `hf auth login` writes, of the user who pulls. A service's is `sudo -u lars-agent HF_TOKEN=... lars-agent model pull
  org/name`. `HF_ENDPOINT` names another hub.
- Repositories without safetensors are refused before anything is fetched; of one with GGUF files, download one and
  pull that.

## Families

| family | replies | fast decoder | tools | trains | |
|---|---|---|---|---|---|
"""


def config_of(name: str) -> PreTrainedConfig:
    """Return the config of the tiny model of a family."""
    kind, fields = FAMILIES[name]
    config: PreTrainedConfig = getattr(transformers, kind)(**fields)
    return config


def save_family(name: str, folder: Path) -> Path:
    """Write the tiny model of a family, with a tokenizer, to `folder`, in float32."""
    torch.manual_seed(0)
    config = config_of(name)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SPREAD)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def row_of(name: str) -> str:
    """Return the row of a family."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_family(name, Path(scratch))
        try:
            limits = check_model(folder)
        except LarsError as error:
            return _row(name, "no", "", "", "no", str(error).replace(str(folder), "the folder"))
        opened = open_model(folder, torch.float32)
        fast = build_fast_decoder(opened.model) is not None
        tools = calls_a_tool(opened, folder)
        said = ("yes" if one else "" for one in (fast, tools))
        return _row(name, "yes", *said, "no" if limits else "yes", "; ".join(limits))


NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def calls_a_tool(opened: OpenedModel, scratch: Path) -> bool:
    """Return whether a call comes back that is demanded of the model."""
    engine = Engine(opened, AdapterStore(scratch / "adapters"), threads=1)
    try:
        asked = (Message(role="user", content="What time is it?"),)
        tools = ToolUse((definition("now", "Tell the time.", NOTHING),), must_call=True)
        reply = engine.submit(GenerationRequest(asked, version=None, max_new_tokens=200, tools=tools)).result()
        return [call["function"]["name"] for call in reply.calls] == ["now"]
    finally:
        engine.close()


def page() -> Iterator[str]:
    """Yield the page, row by row."""
    yield INTRODUCTION
    for name in FAMILIES:
        yield row_of(name)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
