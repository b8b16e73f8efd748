"""One cell of the memory bench, in a process of its own: `python -m bench.memory_cell '{"method": ..., ...}'`.

Prints one JSON line: peak resident bytes of the whole process over all steps, the bytes it held before the first step,
and seconds a step.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.memory.measure import peak_rss_bytes, pss_bytes, reset_peak, rss_bytes
from lars_agent.memory.plan import Plan
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.runtime.decode import Decoder
from lars_agent.training.batches import Encoded
from lars_agent.training.loop import TrainConfig, Trainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Cell:
    """What is measured.

    `method`: `inference`, a LARS pooling (`response`, `response+token`, ...), or `lora`, `lora+checkpointing`,
    `lora+checkpointing+chunked`, `ia3`, `lora-fa`, `velora` (PEFT). `context` tokens of prompt, `reply` of reply.
    """

    method: str
    context: int
    reply: int = 128
    dtype: str = "bfloat16"
    model: str = ".cache/models/smollm2-135m-instruct"
    steps: int = 2
    threads: int = 0
    rank: int = 16
    plan: dict[str, Any] = field(default_factory=dict)
    stock: bool = False  # transformers' own attention (and, set by whoever starts this, glibc as it comes)


def rows(cell: Cell, vocabulary: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(100, vocabulary, (count,), generator=generator).tolist())

    return [Encoded(ids(cell.context), ids(cell.reply), 1.0, str(index)) for index in range(2)]


def infer(cell: Cell, opened: OpenedModel) -> list[float]:
    """Prefill and a reply by the endpoint's own decoder, with an adapter: what serving needs at this context."""
    attachment = attach(opened.model)
    adapter = LarsAdapter.for_model(opened.model, LarsConfig(rank=cell.rank)).eval().requires_grad_(False)
    row = rows(cell, opened.model.config.vocab_size)[0]
    started = time.perf_counter()
    decoder = Decoder(attachment, adapter)
    decoder.prefill(row.prompt)
    for token in row.reply[:-1]:
        decoder.step(token)
    return [time.perf_counter() - started]


def train_lars(cell: Cell, opened: OpenedModel) -> list[float]:
    pooling, _, token = cell.method.partition("+")
    config = LarsConfig(rank=cell.rank, pooling=pooling, token_term=token == "token")  # type: ignore[arg-type]
    adapter = LarsAdapter.for_model(opened.model, config)
    train = TrainConfig(steps=cell.steps, batch_size=1, evaluate_every=10_000, rehearsal_batch=0, max_seq_len=10**6)
    data = rows(cell, opened.model.config.vocab_size)
    trainer = Trainer(attach(opened.model), adapter, train, data[:1], data[1:], 0, plan=Plan.from_dict(cell.plan))
    seconds: list[float] = []
    for _ in range(cell.steps):
        started = time.perf_counter()
        trainer._step(lambda: None)
        seconds.append(time.perf_counter() - started)
    return seconds


def train_peft(cell: Cell, opened: OpenedModel) -> list[float]:
    """PEFT's methods as their users run them: loss on the reply, logits of the reply alone, AdamW."""
    from peft import IA3Config, LoraConfig, get_peft_model

    kind, *extras = cell.method.split("+")
    if kind == "ia3":
        config: Any = IA3Config(task_type="CAUSAL_LM")
    else:
        config = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(opened.model, config)
    model.train()
    if "checkpointing" in extras:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
    row = rows(cell, opened.model.config.vocab_size)[0]
    ids = torch.tensor([[*row.prompt, *row.reply]])
    seconds: list[float] = []
    for _ in range(cell.steps):
        started = time.perf_counter()
        peft_loss(model, opened, ids, cell.reply, chunked="chunked" in extras).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def peft_loss(model: Any, opened: OpenedModel, ids: torch.Tensor, reply: int, *, chunked: bool) -> torch.Tensor:
    if not chunked:
        logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=reply).logits.float()
        return functional.cross_entropy(logits[0], ids[0, -reply:])
    from lars_agent.lars.head import vocabulary_of
    from lars_agent.memory.losses import chunked_cross_entropy

    hidden = model.get_base_model().base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    return chunked_cross_entropy(hidden[0, -reply:], vocabulary_of(opened.model), ids[0, -reply:]).mean()


def main() -> None:
    cell = Cell(**json.loads(sys.argv[1]))
    torch.set_num_threads(cell.threads or os.cpu_count() or 1)
    opened = open_model(Path(cell.model), DTYPES[cell.dtype])
    if cell.stock:
        opened.model.set_attn_implementation("sdpa")
    reset_peak()
    before = rss_bytes()
    run = (
        infer
        if cell.method == "inference"
        else train_peft
        if cell.method[:4] in ("lora", "ia3", "velo")
        else train_lars
    )
    seconds = run(cell, opened)
    figures = {"peak_bytes": peak_rss_bytes(), "loaded_bytes": before, "end_rss": rss_bytes(), "end_pss": pss_bytes()}
    print(json.dumps(vars(cell) | figures | {"seconds": round(statistics.median(seconds), 4)}))


if __name__ == "__main__":
    main()
