"""The part `fuzz_files`: damaged files of every kind that the product reads, and how each reader ends."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.ops.damage import damaged
from bench.ops.good import KINDS, files_of, make_good, resign
from bench.ops.settings import OpsSettings
from lars_agent.errors import LarsError
from lars_agent.files import sha256_of

ADDRESS_SPACE = 16 * 2**30
READY_S, LATE_S = 600.0, 60.0
HANG_S = 5.0  # of processor time, or all the time until LATE_S: the machine may be busy with something else


@dataclass
class Reader:
    """The process that reads, started again where a file has killed it."""

    good: Path
    log: Path
    process: subprocess.Popen[str] | None = None
    _answers: queue.Queue[str] = field(default_factory=queue.Queue)

    def read(self, kind: str, folder: Path) -> dict[str, Any]:
        """How reading the folder ends; see `bench.ops.readers.outcome`."""
        if self.process is None:
            self._start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps([kind, str(folder)]) + "\n")
        process.stdin.flush()
        if answer := self._answer(LATE_S):
            return dict(json.loads(answer))
        status = process.poll()
        self.close()
        if status is None:
            return {"end": "hang", "words": f"no end after {LATE_S:.0f} s", "cpu_s": LATE_S}
        return {"end": "crash", "words": f"the process died with status {status}", "cpu_s": 0.0}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self) -> None:
        command = [sys.executable, "-m", "bench.ops.readers", str(self.good), str(ADDRESS_SPACE)]
        settings = {name: text for name, text in os.environ.items() if not name.startswith("LARS_AGENT_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=settings
            )
        self._answers = queue.Queue()
        threading.Thread(target=_forward, args=(self.process, self._answers), daemon=True).start()
        if not self._answer(READY_S):
            self.close()
            raise LarsError(f"the readers do not start: {self.log.read_text(encoding='utf-8')[-1000:]}")

    def _answer(self, within_s: float) -> str:
        """The next line; empty at the end of the process, or where none comes."""
        try:
            return self._answers.get(timeout=within_s)
        except queue.Empty:
            return ""


def _forward(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")


def cases(good: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Path, bytes, str]]:
    """Yield kind, file (relative to the kind's folder), its damaged content, and what is wrong with it."""
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        file = rng.choice(files_of(good, kind))
        content, what = damaged(file.name, (good / kind / file).read_bytes(), rng)
        yield kind, file, content, what


def fuzz_files(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """How the readers end on damaged files; every end that is neither a success nor an error in words is named."""
    good, case, rng = folder / "good-files", folder / "case", random.Random(settings.seed)
    make_good(folder, good)
    ends, by_kind, problems = Counter[str](), Counter[str](), list[str]()
    reader = Reader(good, folder / "readers.log")
    try:
        for kind in KINDS:
            found = reader.read(kind, _placed(good, kind, case))
            if found["end"] != "read":
                raise LarsError(f"the good files of {kind} are not read: {found['words']}")
        for kind, file, content, what in cases(good, settings.files, rng):
            place = _placed(good, kind, case)
            (place / file).write_bytes(content)
            if kind == "checkpoint" and file.name != "progress.json" and rng.random() < 0.5:
                resign((place / file).parent)
            before = digests(place)
            found = reader.read(kind, place)
            end = "hang" if found["cpu_s"] > HANG_S else found["end"]
            if end == "refused" and (changed := changes(before, place)):
                end, found["words"] = "changed", f"{changed} changed, though it says {found['words']}"
            ends[end] += 1
            by_kind[kind] += 1
            if end not in ("read", "refused"):
                problems.append(f"{kind}/{file}, {what}: {end}: {found['words']}")
                print(problems[-1], flush=True)
    finally:
        reader.close()
    return {"files": by_kind.total(), "kinds": dict(by_kind), "ends": dict(ends), "problems": problems}


def digests(folder: Path) -> dict[Path, str]:
    """The sha256 of every file."""
    return {path: sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def changes(before: dict[Path, str], folder: Path) -> list[str]:
    """Names of the files that were there and are gone or another."""
    after = digests(folder)
    return [str(path.relative_to(folder)) for path, digest in before.items() if after.get(path) != digest]


def _placed(good: Path, kind: str, case: Path) -> Path:
    """A fresh copy of the kind's good folder."""
    shutil.rmtree(case, ignore_errors=True)
    return Path(shutil.copytree(good / kind, case))
