"""One cell of the memory bench: all that decides its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bench.allocators import WORKER


@dataclass(frozen=True)
class Cell:
    """What is measured, in a process of its own.

    Attributes:
        method: a key of `bench.methods.METHODS`.
        context, reply: tokens of the prompt, and of the reply that is learned; one example at a time.
        dtype: `float32`, `bfloat16`, `int8` or `int4`, see `lars_agent.models.open.compute_dtype`.
        model: as on the command line: `default`, a name, a folder, or a named config with random weights.
        steps: how often; what is counted does not depend on it.
        threads: torch's; 0 for all cores.
        rank: of the LARS adapter.
        plan: the fields of `lars_agent.ops.memory_plan.Plan` (LARS alone).
        attention: `grouped` (ours) or `transformers`.
        allocator: a key of `bench.allocators.ALLOCATORS`.
        device: `cpu` or `cuda`.
        limit_bytes: of the memory cgroup that the process runs in, None for no limit.
        run: counts the repetitions of a cell.
    """

    method: str
    context: int
    dtype: str
    model: str = "default"
    reply: int = 128
    steps: int = 3
    threads: int = 0
    rank: int = 16
    plan: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "grouped"
    allocator: str = WORKER
    device: str = "cpu"
    limit_bytes: int | None = None
    run: int = 0

    @property
    def key(self) -> str:
        """The same for cells that measure the same."""
        record = self.as_dict()
        del record["steps"]
        return json.dumps(record, sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Cell:
        """The cell in a record that may hold figures too."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in names})
