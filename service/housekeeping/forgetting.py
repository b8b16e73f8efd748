"""Feedback that was deleted is in no job directory either, once its job has ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from lars_agent.files import write_atomically
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE
from service.housekeeping.sweep import Round


def forget_examples(work: Round, job_ids: Iterable[str]) -> None:
    """The directories of these jobs, which have ended, hold no example whose feedback is gone."""
    for job_id in job_ids:
        for name in (TRAIN_FILE, HELDOUT_FILE):
            with work.going_on("forgetting", job=job_id, file=name):
                path = work.settings.jobs_dir / job_id / name
                if path.is_file():
                    size_bytes = path.stat().st_size
                    work.report.examples += strip(path, work.db.feedback.known)
                    work.report.freed_bytes += size_bytes - path.stat().st_size


def strip(path: Path, known: Callable[[Collection[str]], set[str]]) -> int:
    """How many lines were taken out of `path`: those of sources that are not `known`, and what is no example at all.

    A line that names no source is of no feedback, and stays.
    """
    with path.open("rb") as file:
        sources = [_source(line) for line in file]
    wanted = {"", *known({source for source in sources if source})}
    gone = sum(source not in wanted for source in sources)
    if gone:
        with path.open("rb") as file:
            write_atomically(path, (line for line, source in zip(file, sources, strict=True) if source in wanted))
    return gone


def _source(line: bytes) -> str | None:
    """The id of the feedback that the line came from; None where nobody can tell whose words it holds."""
    try:
        record = json.loads(line)
        return str(record.get("source_id", ""))
    except (ValueError, AttributeError):
        return None
