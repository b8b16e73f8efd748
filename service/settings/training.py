"""The section of training: what decides on what is learned, and the worker process that learns it."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from pydantic import AfterValidator, Field

from lars_agent.processor import core_count
from lars_agent.records import record
from lars_agent.training.config import TrainConfig
from service.settings.runner import LOCAL, checked_runner
from service.settings.sections import MOST_THREADS


@record("training")
class Training(TrainConfig):
    """Training, and the worker process that does it."""

    threads: int = Field(
        default=0,
        ge=0,
        le=MOST_THREADS,
        description="Threads of the training worker; 0 for half of the cores, which leaves the others to the user and "
        "takes less processor time in all.",
    )
    hang_s: float = Field(
        default=900.0,
        ge=1,
        le=31_536_000,
        description="A worker without progress for so long is killed, and continues from its checkpoint.",
    )
    runner: Annotated[str, AfterValidator(checked_runner)] = Field(
        default=LOCAL,
        description="Machine that trains: `local`, or another one of yours, ssh://[user@]host[:port][/path]; the path "
        "is the folder of its installation. What is learned from is carried there, and removed from there afterwards.",
    )
    runner_takes_model: bool = Field(
        default=False,
        description="Whether a base model that the other machine lacks is carried there, once; it stays there.",
    )

    @property
    def worker_threads(self) -> int:
        """The number of threads that a worker gets."""
        return self.threads or max(1, core_count() // 2)

    @property
    def config(self) -> TrainConfig:
        """The settings that decide what is learned."""
        return TrainConfig(**{item.name: getattr(self, item.name) for item in fields(TrainConfig)})
