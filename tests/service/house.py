"""A daemon's parts without its model: real files, a real database, a stand-in worker that is a real process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lars_agent.errors import AdapterCorrupt
from lars_agent.example import Message
from lars_agent.store.adapters import AdapterStore
from lars_agent.store.manifest import AdapterManifest
from service.cycle.context import CycleContext
from service.cycle.supervisor import Supervisor
from service.db import Database
from service.db.records import NewFeedback
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings
from service.worker.memory_limit import GUARD_ONLY
from service.worker.preemption import RequestPreemption
from service.worker.process import WorkerProcess

REPOSITORY = Path(__file__).parents[2]
STANDIN = Path(__file__).with_name("standin_worker.py")
SHA256 = "a" * 64


@dataclass(frozen=True)
class FakeModel:
    folder: Path = Path("/nowhere/model")
    reference: str = "tiny/random"
    revision: str | None = "c0ffee"
    sha256: str = SHA256


class FakeEngine:
    """Serves nothing, but says which version it would; told to fail, it loads no version that it has not in memory."""

    is_alive = True

    def __init__(self, store: AdapterStore, sha256: Callable[[], str]) -> None:
        self.store, self.sha256, self.failing = store, sha256, False
        self._serving: dict[str, int | None] = {}
        self._loaded: set[tuple[str, int]] = set()

    def prepare(self, profile: str, version: int) -> bool:
        if (profile, version) in self._loaded:
            return False
        if self.failing:
            raise AdapterCorrupt("the tensors have another shape")
        self.store.verify(profile, version, self.sha256())
        self._loaded.add((profile, version))
        return True

    def swap(self, profile: str, version: int | None) -> None:
        if version is not None:
            self.prepare(profile, version)
        self._serving[profile] = version

    def forget(self, profile: str, versions: Sequence[int]) -> None:
        self._loaded -= {(profile, version) for version in versions}
        if self._serving.get(profile) in versions:
            self._serving[profile] = None

    def serving(self, profile: str) -> int | None:
        return self._serving.get(profile)


class House:
    """What a daemon has in `data_dir`; two of them with the same folder are a daemon and its successor."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.settings = Settings(**{"data_dir": data_dir, "idle": {"resume_s": 0.05}, **settings})
        self.db = Database(self.settings.database_path)
        self.store = AdapterStore(self.settings.adapters_dir)
        self.engine = FakeEngine(self.store, lambda: self.model.sha256)
        self.model: Any = FakeModel()
        engine = lambda: nullcontext(self.engine)  # noqa: E731
        self.switch: Any = AdapterSwitch(self.store, engine, engine, lambda: self.model)
        self.context = CycleContext(self.settings, self.db, self.store, lambda: self.model, self.switch)
        self.supervisors: list[Supervisor] = []

    def supervisor(self, *flags: str, command: tuple[str, ...] | None = None, **options: Any) -> Supervisor:
        """A supervisor of `worker`, which is the stand-in, told by `flags` how to behave."""
        self.worker = WorkerProcess(
            command or (sys.executable, str(STANDIN), *flags),
            grace_s=20.0,
            memory_limit=options.pop("memory_limit", GUARD_ONLY),
            records=self.settings.elsewhere_dir,
        )
        self.worker.use(self.settings.training)
        self.preemption = RequestPreemption(self.worker, self.settings.idle.resume_s)
        self.supervisors.append(Supervisor(self.context, self.worker, **options))
        return self.supervisors[-1]

    def correct(self, count: int = 4, profile: str = "default") -> list[str]:
        """`count` corrections are stored; their ids."""
        facts = [(f"What is the number of house {i}?", f"It is {i}.") for i in range(count)]
        news = [
            NewFeedback(messages=(Message(role="user", content=q),), response="?", correction=a, profile=profile)
            for q, a in facts
        ]
        return [self.db.feedback.add(new)[0].id for new in news]

    def publish(self, profile: str = "default", learned: Sequence[str] = ()) -> int:
        """A version is in use, as if an earlier run had made it from these pieces of feedback."""
        candidate = self.settings.data_dir / "earlier"
        candidate.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (candidate / name).write_text("{}")
        parent = self.store.active(profile)
        job_id = self.db.jobs.add(profile, "manual").id if learned else ""
        if job_id:
            self.db.jobs.update(job_id, status="succeeded")
        draft = AdapterManifest(parent=parent, base_model_sha256=SHA256, example_ids=tuple(learned), job_id=job_id)
        manifest = self.store.publish(profile, candidate, draft)
        self.store.activate(profile, manifest.version)
        self.engine.swap(profile, manifest.version)
        return manifest.version

    def folder(self, job_id: str) -> Path:
        return self.settings.jobs_dir / job_id

    def close(self) -> None:
        for supervisor in self.supervisors:
            supervisor.close()
        self.db.close()


def until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """`condition` has become true; how long that took is nobody's business unless it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def state_of(pid: int) -> str:
    """The letter the kernel gives the process: T is stopped, Z a zombie, X (here) gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def main(data_dir: str, *flags: str) -> None:
    """A daemon that has begun a job and waits to be killed."""
    house = House(Path(data_dir))
    house.supervisor(*flags).adapt()
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
