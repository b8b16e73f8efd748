"""A step of LARS training, and a reply with an adapter, by the code that trains and serves."""

from __future__ import annotations

from collections.abc import Callable

from bench.memory.cell import Cell
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.decoding import HfSequence
from lars_agent.memory.allocator import give_back
from lars_agent.models.open import OpenedModel
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.records import from_json
from lars_agent.training.batches import Encoded
from lars_agent.training.config import TrainConfig
from lars_agent.training.job_rows import JobRows
from lars_agent.training.trainer import Trainer

RATE = 1e-3


def lars_step(cell: Cell, opened: OpenedModel, example: Encoded) -> Callable[[], None]:
    """The worker's step on one example (without rehearsal), memory given back at the end as it does."""
    pooling, *extras = cell.method.split("+")
    config = LarsConfig(rank=cell.rank, pooling=pooling, token_term="token" in extras)  # type: ignore[arg-type]
    adapter = LarsAdapter.for_model(opened.model, config)
    train = TrainConfig(steps=1, batch_size=1, learning_rate=RATE, rehearsal_batch=0, max_seq_len=len(example))
    plan = from_json(MemoryPlan, cell.plan | ({} if cell.device == "cpu" else {"optimizer_bits": 32}))
    trainer = Trainer(attach(opened.model), adapter, JobRows(train, [example], [example]), 0, plan=plan)

    def step() -> None:
        trainer._step()
        give_back()

    return step


def inference_step(cell: Cell, opened: OpenedModel, example: Encoded) -> Callable[[], None]:
    """Prefill and a reply with an adapter by the endpoint's own decoder: what serving needs at this context."""
    adapter = LarsAdapter.for_model(opened.model, LarsConfig(rank=cell.rank)).eval().requires_grad_(False)
    attachment = attach(opened.model)

    def reply() -> None:
        sequence = HfSequence(attachment, adapter, example.prompt)
        list(sequence.prefill())
        for token in example.reply[:-1]:
            sequence.step(token)

    return reply
