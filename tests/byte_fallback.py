"""Small tokenizers in the manner of Llama 2, Mistral and Gemma: blanks as `▁`, and bytes for what is in no word."""

from __future__ import annotations

from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Kind = Literal["legacy", "gemma", "first"]
KINDS: tuple[Kind, ...] = ("legacy", "gemma", "first")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def byte_fallback_tokenizer(kind: Kind, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """`legacy` puts a blank before every piece of text, `first` before the first one only, `gemma` nowhere."""
    words = ["<unk>", *SPECIAL[:2], *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyzHW.<|>_"]
    merges = [("▁", "h"), ("h", "e"), ("l", "l"), ("▁h", "e"), ("H", "e"), ("▁", "He")]
    vocabulary = {word: number for number, word in enumerate([*words, *(left + right for left, right in merges)])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    strip = [] if kind == "gemma" else [decoders.Strip(content=" ", left=1, right=0)]
    if kind == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        blanks = normalizers.Replace(" ", "▁")
        tokenizer.normalizer = blanks if kind == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), blanks])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(SPECIAL)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)
