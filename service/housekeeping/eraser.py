"""Carry out what a person has deleted, from the rows to the last copy.

The rows go first, in one transaction with the record of the erasure. All the rest can be done again from what is left,
so that a daemon that dies in between goes on at its next start. What takes time, or waits for a job to end, is left to
the housekeeper.
"""

from __future__ import annotations

import contextlib

import structlog

from lars_agent.errors import LarsError
from service.cycle.context import CycleContext
from service.cycle.erasure import withdraw_forgotten
from service.cycle.supervisor import JobNotRunning, Supervisor
from service.db.errors import JobNotFound
from service.db.records import ErasureRecord, JobRecord
from service.housekeeping.housekeeper import Housekeeper

log = structlog.get_logger(__name__)


class Eraser:
    """Deletes from everywhere what `Erasures` has deleted from the database."""

    def __init__(self, context: CycleContext, supervisor: Supervisor, housekeeper: Housekeeper) -> None:
        self._context, self._supervisor, self._housekeeper = context, supervisor, housekeeper

    def carry_out(self, erasure: ErasureRecord) -> None:
        """Delete the versions that learned it and end the jobs that know it; nothing that knew it replies afterwards.

        Copies in the directories of jobs, and in free pages, follow soon.
        """
        context, erasures = self._context, self._context.db.erasures
        for job in context.db.jobs.unfinished():
            if job.profile in erasure.profiles and _may_know(job, erasure):
                with contextlib.suppress(JobNotRunning, JobNotFound):
                    self._supervisor.cancel(job.id)
        versions = {profile: withdraw_forgotten(profile, context, erasure.feedback) for profile in erasure.profiles}
        # The index follows the rows, and wordings are made anew for each job.
        erasures.mark(erasure, "recall", "wordings", "served_version", "caches", versions=versions)
        with contextlib.suppress(LarsError):  # what keeps the log now, the housekeeper comes back to
            context.db.empty_log()
        self._housekeeper.forget_soon()

    def resume(self) -> None:
        """Go on with what an earlier daemon has left; called before any reply is given."""
        try:
            for erasure in self._context.db.erasures.pending():
                self.carry_out(erasure)
            for profile in self._context.store.profiles():
                withdraw_forgotten(profile, self._context)
        except Exception:  # a full disk, say: a daemon that does not start would help nobody
            log.exception("erasure_not_resumed")


def _may_know(job: JobRecord, erasure: ErasureRecord) -> bool:
    """Return whether the job reads the deleted feedback; one that has not written down what it reads may."""
    seen = (job.spec or {}).get("seen")
    return seen is None or not set(seen).isdisjoint(erasure.feedback)
