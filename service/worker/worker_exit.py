"""How a worker process ended, and the error that this is for its job."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from lars_agent.errors import WorkerFailed
from lars_agent.training.job_directory import EXIT_DISK_FULL, EXIT_STOPPED
from service.settings.runner import LOCAL
from service.worker.memory_limit import Limit

WorkerOutcome = Literal["ended", "stopped", "suspended", "hung", "killed_at_limit", "killed", "crashed"]


@dataclass(frozen=True)
class WorkerExit:
    """How a worker process ended: its exit status (below zero: the signal), its last line, and its memory's limit.

    `suspended`: it was asked to, after a long pause. `hung_s`: it was killed after so long without progress. `runner`:
    the machine it ran on, `local` for this one. `not_there`: the reason why that is not the one that was wanted.
    """

    exit_status: int
    log_tail: str
    limit: Limit
    suspended: bool = False
    hung_s: float | None = None
    runner: str = LOCAL
    not_there: str | None = None

    @property
    def stopped(self) -> bool:
        """True if the worker was asked to end; it continues from its checkpoint when it is run again."""
        return self.exit_status in (EXIT_STOPPED, -signal.SIGTERM)

    @property
    def outcome(self) -> WorkerOutcome:
        """How it ended, in one word; `killed` is by SIGKILL, which the system sends when memory runs out."""
        if self.hung_s is not None:
            return "hung"
        if self.limit.killed:
            return "killed_at_limit"
        if self.stopped:
            return "suspended" if self.suspended else "stopped"
        return {0: "ended", -signal.SIGKILL: "killed"}.get(self.exit_status, "crashed")  # type: ignore[return-value]

    def failure(self) -> WorkerFailed:
        """Return the error of a worker that ended without a result."""
        if self.hung_s is not None:
            return WorkerFailed(
                f"the training worker got no further for {self.hung_s:.0f} s (training.hang_s) and was killed; "
                "its log says what it did last"
            )
        if self.limit.killed:
            return WorkerFailed(
                f"the training worker was killed at its memory limit of {self.limit.limit_bytes:,} bytes "
                "(memory.budget_bytes); raise it, or lower training.max_seq_len"
            )
        if self.exit_status == EXIT_DISK_FULL:
            return WorkerFailed("no room on the disk for what the training worker found; free some space and try again")
        how = f"exit status {self.exit_status}"
        if self.exit_status < 0:
            how = f"signal {signal.Signals(-self.exit_status).name}"
        hint = ", which the system sends when memory runs out" if self.exit_status == -signal.SIGKILL else ""
        said = f"; it last said: {self.log_tail}; its log says more" if self.log_tail else ""
        return WorkerFailed(f"the training worker ended with {how}{hint} and left no result{said}")
