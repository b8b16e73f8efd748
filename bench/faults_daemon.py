"""A daemon that is going to be killed: started, found out about, struck, started again on the same folder and port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import psutil

from bench.tiny_model import NAME
from examples.running import free_port
from lars_agent.errors import LarsError

Target = Literal["group", "daemon", "worker", "engine"]
SERVE = (sys.executable, "-m", "service", "serve")
STARTS = "starts.json"
LOG_TAIL = 2000
MODULES = {"worker": "training.worker", "engine": "runtime.engine_server", "faulty": "bench.faulty_worker"}
# A cycle of seconds, whose candidate is better than the incumbent whenever there is something else to learn.
QUICK = {
    "model__dtype": "float32",
    "lars__rank": "4",
    "lars__dropout": "0",
    "training__steps": "40",
    "training__batch_size": "2",
    "training__learning_rate": "0.02",
    "training__warmup_steps": "1",
    "training__checkpoint_every": "5",
    "training__evaluate_every": "10",
    "training__rehearsal_batch": "0",
    "training__max_seq_len": "256",
    "training__threads": "1",
    "runtime__threads": "1",
    "gate__min_reply_gain": "0",
    "gate__max_text_rise": "1000",
    "curation__max_heldout": "4",
    "idle__resume_s": "0.05",
    "idle__min_free_disk_bytes": "0",
    "schedule__enabled": "false",
}


@dataclass
class Victim:
    """A daemon on the folder `state`; what it writes goes to `log`, which lies elsewhere. Left dead on leaving."""

    state: Path
    log: Path
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.strike("group")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, command: Sequence[str] = SERVE, **environment: str) -> None:
        """It has been started, and need not reply yet."""
        everything = {name: value for name, value in os.environ.items() if not name.startswith("LARS_AGENT_")}
        settings = {**self.settings, "data_dir": str(self.state), "server__port": str(self.port)}
        everything |= {f"LARS_AGENT_{name.upper()}": value for name, value in settings.items()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_leash(), *command], env=everything | environment, stdout=log, stderr=log, start_new_session=True
            )

    def forgive(self) -> None:
        """Starts that failed before are not counted: else the next ones would be in safe mode."""
        (self.state / STARTS).unlink(missing_ok=True)

    def is_healthy(self) -> bool:
        return self.health() is not None

    def health(self) -> dict[str, Any] | None:
        """What GET /health says; None while it does not reply, or not yet."""
        return self.get("/health", within_s=1.0)

    def get(self, path: str, within_s: float = 20.0) -> dict[str, Any] | None:
        """The answer; None where there is none."""
        try:
            response = httpx.get(self.url + path, timeout=within_s)
        except httpx.HTTPError:
            return None
        return response.json() if response.is_success else None

    def wait_healthy(self, limit_s: float = 120.0) -> float:
        """Seconds until it replied. Raises LarsError with the end of its log where it died, or where it never did."""
        started = time.monotonic()
        while not self.is_healthy():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > started + limit_s:
                raise LarsError(f"the daemon did not start: {self.said()}")
            time.sleep(0.05)
        return time.monotonic() - started

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if self.log.exists() else ""

    def strike(self, target: Target) -> int:
        """The target was killed (kill -9); how many of the daemon's processes outlived it by 10 s.

        Raises ProcessLookupError where there is no such process.
        """
        assert self.process is not None
        if target in ("worker", "engine"):
            os.kill(self._pid(target), signal.SIGKILL)
            return 0
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if target == "group" else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        _, alive = psutil.wait_procs(family, timeout=10)
        for one in alive:
            with contextlib.suppress(psutil.Error):
                one.kill()
        return len(alive)

    def stop(self) -> None:
        """It was ended by SIGTERM, as systemd does. Raises LarsError where it takes longer than systemd allows."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.strike("group")
            raise LarsError("the daemon did not end within 30 s of SIGTERM") from None
        self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Any:
        """Within the block none of its processes runs."""
        family = [*self._family(), psutil.Process(self.process.pid)] if self.process is not None else []
        stopped = []
        try:
            for one in reversed(family):
                with contextlib.suppress(psutil.Error):
                    was_held = one.status() == psutil.STATUS_STOPPED
                    one.suspend()
                    if not was_held:
                        stopped.append(one)
            yield
        finally:
            for one in stopped:
                with contextlib.suppress(psutil.Error):
                    one.resume()

    def _family(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _pid(self, target: str) -> int:
        for one in self._family():
            with contextlib.suppress(psutil.Error):
                if any(MODULES[target] in word for word in one.cmdline()):
                    return one.pid
        raise ProcessLookupError(f"there is no {target}")


def _leash() -> list[str]:
    """What has the kernel kill the daemon when the bench is killed, where the system has it (util-linux)."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def quick(tiny: Path, **more: str) -> dict[str, str]:
    """The settings of a daemon whose cycles take seconds, with the model of `bench.tiny_model` in the folder `tiny`."""
    return {**QUICK, "model__name": str(tiny / NAME), **more}


def new_state(folder: Path, tiny: Path) -> Path:
    """`folder` is a data folder in which the tiny model is installed already."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(tiny / "models")
    return folder
