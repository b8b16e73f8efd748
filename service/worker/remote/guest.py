"""The other machine's side of a job: `python -P -m service.worker.remote.guest`, started by ssh, one for each job.

It speaks JSON lines with the carrier on stdin and stdout. What it is given lies in a folder of its own, which it
removes at its end, whatever ends it: the carrier's word, a connection that is cut or silent, a signal. What a guest
that was killed has left is removed by the next one; base models stay.

    <cache>/lars-agent/elsewhere/jobs/JOB-RANDOM/   the job directory, locked while its guest lives
    <cache>/lars-agent/elsewhere/models/SHA256/     base models that were carried here
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from lars_agent.errors import LarsError
from lars_agent.files import PRIVATE_UMASK, make_folder, publish_folder, sha256_of
from lars_agent.models.library import ModelLibrary
from lars_agent.models.weights import weight_files, weights_digest
from lars_agent.records import parse_json
from lars_agent.training.job_directory import (
    ALIVE_FILE,
    CANDIDATE,
    EXIT_STOPPED,
    PLAN_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    JobSpec,
)
from service.process.version import package_version
from service.worker.process import DEFAULT_COMMAND, launcher, worker_environment
from service.worker.runner import Priority

SILENT_S, BEAT_S, LOOK_S, TELL_S = 60.0, 10.0, 0.2, 2.0
SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
CHECKPOINT = re.compile(r"checkpoint-[0-9]+")
PARENT, START = "parent", "start"  # the adapters that a job compares with and goes on from
SYSTEM_MODELS = Path("/var/lib/lars-agent/models")


class Guest:
    """One job of another machine. `root` holds what guests keep; see the module."""

    def __init__(self, root: Path) -> None:
        self.root = make_folder(root)
        self._speaking = threading.Lock()
        self._folder = Path()
        self._worker: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._threads = 1
        self._paused = self._stopping = self._done = False
        self._seen: dict[str, Any] = {}
        self._told_at = 0.0

    def serve(self) -> None:
        """Do what the carrier says until it ends, or is silent for `SILENT_S`."""
        threading.Thread(target=self._beat, daemon=True).start()
        unread, heard_at = b"", time.monotonic()
        while not self._done:
            if select.select([0], [], [], LOOK_S)[0]:
                if not (data := os.read(0, 65536)):
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self._obey(parse_json(line))
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > SILENT_S:
                return
            self._look()

    def close(self) -> None:
        """Leave neither a worker nor anything personal."""
        if self._worker is not None and self._worker.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    def say(self, kind: str, **values: Any) -> None:
        """Tell the carrier."""
        with self._speaking, contextlib.suppress(OSError):  # who is gone is noticed on stdin
            sys.stdout.write(json.dumps({"say": kind, **values}) + "\n")
            sys.stdout.flush()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.say("beat")

    def _obey(self, message: Mapping[str, Any]) -> None:
        match message.get("do"):
            case "open":
                self._open(str(message["job"]))
            case "find model":
                self._find_model(str(message["sha256"]))
            case "keep model":
                self._keep_model(str(message["sha256"]))
            case "run":
                self._prepare(message)
            case "pause":
                self._paused = True
                self._signal(signal.SIGSTOP)
            case "resume":
                self._paused = False
                self._signal(signal.SIGCONT)
            case "stop":
                self._stop()
            case "remove":
                self.close()
                self.say("removed", is_gone=not self._folder.exists() or self._folder == Path())
                self._done = True

    def _open(self, job: str) -> None:
        """Make the job's folder."""
        if not NAME.fullmatch(job):
            raise LarsError(f"{job!r:.100} is no job's id")
        jobs = make_folder(self.root / "jobs")
        with _locked(jobs):
            self._folder = Path(tempfile.mkdtemp(prefix=f"{job}-", dir=jobs))
            self._held = os.open(self._folder, os.O_RDONLY)  # until this process ends
            fcntl.flock(self._held, fcntl.LOCK_EX)
        self.say("opened", folder=str(self._folder), name=self._folder.name)

    def _find_model(self, sha256: str) -> None:
        """Say where the base model is, else where it could be carried."""
        if not SHA256.fullmatch(sha256):
            raise LarsError(f"{sha256!r:.100} is no digest of a model")
        found, incoming = find_model(self.root, sha256), self._folder / "model"
        self.say("model", folder=None if found is None else str(found), incoming=str(incoming))

    def _keep_model(self, sha256: str) -> None:
        """Take the model that has been carried here if it is whole."""
        incoming, models = self._folder / "model", make_folder(self.root / "models")
        if weights_digest(weight_files(incoming)) != sha256:
            raise LarsError("the base model that came here is damaged")
        with contextlib.suppress(FileExistsError):  # another guest was first
            publish_folder(incoming, models / sha256)
        self._find_model(sha256)

    def _prepare(self, message: Mapping[str, Any]) -> None:
        """Have the job run with what this machine has; it begins once it is not paused."""
        spec = JobSpec.read(self._folder)
        own = {name: str(self._folder / name) for name in (PARENT, START) if (self._folder / name).is_dir()}
        parent, start = own.get(PARENT), own.get(str(message.get("start")))
        model = str(message["model"])
        replace(spec, model_path=model, costs_file=None, parent=parent, start=start).write(self._folder)
        self._threads = int(message["threads"])
        priority: Priority = "requested" if message["priority"] == "requested" else "idle"
        self._command = [*launcher("", priority), *DEFAULT_COMMAND, str(self._folder)]

    def _signal(self, number: signal.Signals) -> None:
        if self._worker is not None and self._worker.poll() is None:
            os.killpg(self._worker.pid, number)

    def _stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process hears SIGTERM only when it runs again

    def _look(self) -> None:
        """Start the worker when it may run, and tell what it has written, and its end."""
        if not self._command or (self._worker is None and self._paused and not self._stopping):
            return
        if self._worker is None and self._stopping:
            self._tell_end(EXIT_STOPPED)
        elif self._worker is None:
            self._worker = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                env=worker_environment(self._threads),
                cwd=self._folder,
                process_group=0,
            )
        elif (exit_status := self._worker.poll()) is not None:
            self._tell_end(exit_status)
        else:
            self._tell_changes()

    def _tell_changes(self) -> None:
        for path in sorted(self._folder.glob("checkpoint-*")):
            if CHECKPOINT.fullmatch(path.name) and path.name not in self._seen:
                self._seen[path.name] = True
                with contextlib.suppress(OSError):  # the worker has newer ones
                    self.say("checkpoint", name=path.name, sums=sums(self._folder, path))
        if time.monotonic() - self._told_at < TELL_S:
            return
        self._told_at = time.monotonic()
        for kind, name in (("alive", ALIVE_FILE), ("progress", PROGRESS_FILE), ("plan", PLAN_FILE)):
            with contextlib.suppress(OSError):
                written = (self._folder / name).stat().st_mtime_ns
                if self._seen.get(name) != written:
                    self._seen[name] = written
                    self.say(kind)

    def _tell_end(self, exit_status: int) -> None:
        """Tell the exit status, and the digest of each file that the carrier may take."""
        folder, self._command = self._folder, []
        names = [CANDIDATE, RESULT_FILE, PROGRESS_FILE, PLAN_FILE]
        names += [path.name for path in folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
        self.say("ended", status=exit_status, sums=sums(folder, *(folder / name for name in names)))


def sums(folder: Path, *paths: Path) -> dict[str, str]:
    """Return the sha256 of each of the files, and of all in the folders, by its path in `folder`."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("*")))]
    return {str(file.relative_to(folder)): sha256_of(file, follow=False) for file in files}


def find_model(root: Path, sha256: str) -> Path | None:
    """Return the folder of the base model with this digest: carried here, or of an installation; None without one."""
    if (root / "models" / sha256 / "config.json").is_file():
        return root / "models" / sha256
    for library in (platformdirs.user_data_path("lars-agent") / "models", SYSTEM_MODELS):
        with contextlib.suppress(OSError, LarsError):
            for model in ModelLibrary(library).list():
                if model.sha256 == sha256:
                    return model.folder
    return None


def remove_left(root: Path) -> list[str]:
    """Remove the folders of guests that have ended; return the names of those that are left, whose guests live."""
    living, jobs = [], root / "jobs"
    if not jobs.is_dir():
        return []
    with _locked(jobs):
        for folder in sorted(path for path in jobs.iterdir() if path.is_dir()):
            held = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(held)
            if folder.exists():
                living.append(folder.name)
    return living


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end(signum: int, frame: object) -> None:
    sys.exit(128 + signum)


def main() -> int:
    """Be the guest of one carrier; return the exit status."""
    os.umask(PRIVATE_UMASK)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _end)
    root = platformdirs.user_cache_path("lars-agent") / "elsewhere"
    guest = Guest(root)
    try:
        guest.say("hello", version=package_version(), left=remove_left(root))
        guest.serve()
    except (LarsError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        guest.say("error", message=str(error) if isinstance(error, LarsError | OSError) else repr(error))
        return 1
    finally:
        guest.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
