"""Fetch a base model in a process of its own, as `lars-agent model pull` does, while the daemon goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from lars_agent.errors import LarsError, ModelError, last_line, process_error
from lars_agent.models import sources
from lars_agent.models.hub import transferred

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "service", "model", "pull", "--no-preview")
PREVIEW = (sys.executable, "-m", "lars_agent.planning.preview")
PREVIEW_S = 120.0


class PullRunning(LarsError):
    """A model is being fetched already."""


class PreviewFailed(ModelError):
    """What a model needs could not be found out."""


def preview(reference: str, dtype: str, budget_bytes: int) -> dict[str, Any]:
    """Return `lars_agent.planning.preview.Preview` of a model that need not be here. Raises as it does."""
    sources.resolve(reference)
    command = [*PREVIEW, reference, dtype, str(budget_bytes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PREVIEW_S)
    except subprocess.TimeoutExpired as error:
        raise PreviewFailed(f"what {reference} needs was not found out within {PREVIEW_S:.0f} s") from error
    if done.returncode:
        raise process_error(done, f"what {reference} needs could not be found out", PreviewFailed)
    return dict(json.loads(done.stdout))


@dataclass(frozen=True)
class Pull:
    """How far the last pull has come: its latest message, and its error if it failed."""

    reference: str
    message: str = "beginning"
    error: str | None = None
    is_over: bool = False

    @property
    def done_bytes(self) -> int | None:
        """Bytes that have come of a file that is being fetched; None while none is, or it is not known."""
        return (transferred(self.message) or (None,))[0]

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all that is being fetched; None as with `done_bytes`."""
        return (transferred(self.message) or (None, None))[1]


class ModelPull:
    """Runs `command`, with the reference behind it, for models under `data_dir`; one pull at a time."""

    def __init__(self, data_dir: str, command: Sequence[str] = COMMAND) -> None:
        self._data_dir, self._command = data_dir, command
        self._lock = threading.Lock()
        self.last: Pull | None = None

    def start(self, reference: str) -> Pull:
        """Begin to fetch a model. Raises ModelNotFound for what names none, and PullRunning."""
        sources.resolve(reference)
        with self._lock:
            if self.last is not None and not self.last.is_over:
                raise PullRunning(f"{self.last.reference} is being fetched; wait for it")
            begun = self.last = Pull(reference)
        threading.Thread(target=self._run, args=(begun,), name="model pull", daemon=True).start()
        return begun

    def _run(self, begun: Pull) -> None:
        environment = os.environ | {"LARS_AGENT_DATA_DIR": self._data_dir, "PYTHONUNBUFFERED": "1"}
        command, output = [*self._command, begun.reference], [""]
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                if line.strip():
                    output.append(line.strip())
                    self.last = replace(begun, message=line.strip())
        failed = last_line("\n".join(output)).removeprefix("error: ") if process.returncode else None
        log.info("model_pull_over", reference=begun.reference, error=failed)
        self.last = replace(begun, message=output[-1], error=failed, is_over=True)
