"""A daemon that is killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from examples.running import SERVE, Daemon

Target = Literal["group", "daemon", "worker", "engine"]
MODULES = {"worker": "training.worker", "engine": "runtime.endpoint"}
START_COUNT = "starts.json"
KILLED_WITHIN_S, START_LIMIT_S, STOP_LIMIT_S = 10, 120.0, 30.0
QUICK = Path(__file__).parent / "configs" / "quick.toml"


@dataclass
class DaemonUnderTest(Daemon):
    """A daemon that can be killed, suspended and asked while it may be dead."""

    @classmethod
    def quick(cls, state: Path, model: Path, log: Path) -> DaemonUnderTest:
        """A daemon on `state` with the installed tiny model and settings under which a cycle takes seconds."""
        state.mkdir(parents=True, exist_ok=True)
        if not (state / "models").exists():
            (state / "models").symlink_to(model.parent)
        sections = tomllib.loads(QUICK.read_text(encoding="utf-8"))
        settings = {f"{name}__{key}": str(value) for name, keys in sections.items() for key, value in keys.items()}
        return cls(state, settings | {"model__name": str(model)}, log)

    def restart(self, command: Sequence[str] = SERVE, **environment: str) -> None:
        """Start it with the failed starts forgotten."""
        self.reset_start_count()
        self.start(command, **environment)

    def reset_start_count(self) -> None:
        """Forget the starts that failed, after several of which the daemon would be in safe mode."""
        (self.state / START_COUNT).unlink(missing_ok=True)

    def try_get(self, path: str, within_s: float = 20.0) -> Any:
        """The answer to GET; None where there is none."""
        try:
            response = httpx.get(self.url + path, timeout=within_s)
        except httpx.HTTPError:
            return None
        return response.json() if response.is_success else None

    def kill(self, target: Target = "group") -> int:
        """Kill the target with SIGKILL; return how many of the daemon's processes outlived it by 10 s.

        Raises ProcessLookupError where there is no such process.
        """
        assert self.process is not None
        if target in MODULES:
            os.kill(self._pid(MODULES[target]), signal.SIGKILL)
            return 0
        children = self._children()
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if target == "group" else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        _, alive = psutil.wait_procs(children, timeout=KILLED_WITHIN_S)
        for one in alive:
            with contextlib.suppress(psutil.Error):
                one.kill()
        return len(alive)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop all of its processes within the block."""
        assert self.process is not None
        stopped = []
        try:
            for one in [psutil.Process(self.process.pid), *reversed(self._children())]:
                with contextlib.suppress(psutil.Error):
                    was_paused = one.status() == psutil.STATUS_STOPPED
                    one.suspend()
                    if not was_paused:
                        stopped.append(one)
            yield
        finally:
            for one in stopped:
                with contextlib.suppress(psutil.Error):
                    one.resume()

    def _children(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _pid(self, module: str) -> int:
        for one in self._children():
            with contextlib.suppress(psutil.Error):
                if any(module in word for word in one.cmdline()):
                    return one.pid
        raise ProcessLookupError(f"there is no process of {module}")
