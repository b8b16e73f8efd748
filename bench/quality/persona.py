"""A cell of the quality bench: LARS or PEFT's LoRA trained on the persona's feedback, and its scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from bench.memory.peft_step import peft_model
from examples.persona import lessons, probes
from lars_agent.example import Message
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.forward import Batch, reply_logits
from lars_agent.lars.inject import Attachment
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.runtime.hf_backend import HfSequence
from lars_agent.training.batches import Encoded, collate, encode, pad_id, step_rows
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import REHEARSAL_TEXT, general_text, token_losses, token_nll
from lars_agent.training.job_rows import JobRows
from lars_agent.training.trainer import TrainConfig, Trainer, learning_rate

REPLY_TOKENS = 40


def run_cell(folder: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's key and its scores, measured in this process on one thread."""
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=key["steps"],
        batch_size=key["batch_size"],
        learning_rate=key["rate"],
        evaluate_every=10,
        checkpoint_every=10_000,
        seed=key["seed"],
    )
    return {**key, **Cell(open_model(Path(folder), torch.float32), config).run(key["method"])}


class Cell:
    def __init__(self, opened: OpenedModel, config: TrainConfig) -> None:
        self.tokenizer, self.config = opened.tokenizer, config
        self.attachment: Attachment = attach(opened.model)
        self.pad = pad_id(opened.tokenizer)
        curated = curate(lessons(), CurationPolicy(), seed=0)
        self.train = [encode(self.tokenizer, example, config.max_seq_len) for example in curated.train]
        self.heldout = [encode(self.tokenizer, example, config.max_seq_len) for example in curated.heldout]
        self.general = general_text(self.tokenizer)
        self.rehearsal = general_text(self.tokenizer, REHEARSAL_TEXT)

    def run(self, method: str) -> dict[str, Any]:
        """Train by the method; return the scores."""
        base_text = self._text_loss(None)
        adapter = self._lora() if method == "lora" else self._lars(method)
        return self._scores(adapter) | {"text_rise": round(self._text_loss(adapter) / base_text - 1, 4)}

    def _text_loss(self, adapter: LarsAdapter | None) -> float:
        return float(token_losses(self.attachment, adapter, self.general, self.pad).mean())

    def _scores(self, adapter: LarsAdapter | None) -> dict[str, Any]:
        passed: dict[str, list[bool]] = {"fact": [], "style": []}
        if adapter is not None:
            adapter.eval()
        for probe in probes():
            passed[probe.kind].append(probe.passed(reply(self.attachment, adapter, self.tokenizer, probe.prompt)))
        return {f"{kind}_rate": round(statistics.mean(marks), 4) for kind, marks in passed.items()}

    def _lars(self, method: str) -> LarsAdapter:
        pooling, _, token = method.partition("+")
        lars = LarsConfig(pooling=pooling, token_term=token == "token")  # type: ignore[arg-type]
        adapter = LarsAdapter.for_model(self.attachment.model, lars, seed=self.config.seed)
        rows = JobRows(self.config, self.train, self.heldout, self.rehearsal)
        Trainer(self.attachment, adapter, rows, self.pad).run()
        return adapter

    def _lora(self) -> None:
        """PEFT's LoRA on every linear layer but the head (r 8, alpha 16, dropout 0.05), rehearsed and kept as ours."""
        torch.manual_seed(self.config.seed)
        model = peft_model("lora", self.attachment.model, alpha=16)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        for step in range(self.config.steps):
            model.train()
            batch = self._batch(self.train, self.config.batch_size, step)
            (token_nll(self.attachment, None, batch).sum() / batch.reply_tokens).backward()
            (self.config.rehearsal_weight * self._divergence(model, step)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, self.config, self.config.steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()

    def _divergence(self, model: PeftModel, step: int) -> Tensor:
        """KL(base model || adapted model) on general text, as `divergence_from_base` with LoRA switched off and on."""
        batch = self._batch(self.rehearsal, self.config.rehearsal_batch, step)
        with torch.no_grad(), model.disable_adapter():
            base = reply_logits(self.attachment, None, batch).log_softmax(dim=-1)
        adapted = reply_logits(self.attachment, None, batch).log_softmax(dim=-1)
        return functional.kl_div(adapted, base, reduction="batchmean", log_target=True)

    def _batch(self, rows: Sequence[Encoded], size: int, step: int) -> Batch:
        """The batch of `Trainer` at that step."""
        return collate(step_rows(rows, size, step, self.config.seed), self.pad)


def reply(attachment: Attachment, adapter: LarsAdapter | None, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The greedy reply to `prompt`, by the endpoint's own decoder."""
    ids, chosen = encode_prompt(tokenizer, [Message(role="user", content=prompt)]), list[int]()
    sequence = HfSequence(attachment, adapter, ids)
    for _ in sequence.prefill():
        pass
    while len(chosen) < REPLY_TOKENS and (token := int(sequence.logits.argmax())) != tokenizer.eos_token_id:
        chosen.append(token)
        sequence.step(token)
    return str(tokenizer.decode(chosen, skip_special_tokens=True)).strip()
