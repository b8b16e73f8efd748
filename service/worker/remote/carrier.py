"""Carry a job to another machine and back: `python -P -m service.worker.remote.carrier [OPTIONS] ADDRESS JOB_DIR`.

It stands in the worker's place: progress, plan and checkpoints appear in the job directory while the worker runs there,
and at the end candidate and result, checked. The daemon says `pause`, `resume` and `stop` on stdin, a line each.

Exit status: 0 with a result.json of a success, 75 after `stop`, 69 if the job has to go on here, from the last
checkpoint that came back; the last line of stderr gives the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lars_agent.errors import LarsError, WorkerFailed, process_error
from lars_agent.files import PRIVATE_UMASK, publish_folder, sha256_of, write_atomically
from lars_agent.training.job_directory import (
    ALIVE_FILE,
    CANDIDATE,
    EXIT_STOPPED,
    HELDOUT_FILE,
    PLAN_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    SPEC_FILE,
    TRAIN_FILE,
    JobSpec,
    read_result,
)
from service.process.version import package_version
from service.settings.runner import SshAddress, parse_runner
from service.worker.remote.connection import Connection, Cut, Message
from service.worker.remote.guest import BEAT_S, CHECKPOINT, PARENT, START
from service.worker.remote.records import Left, forget, left, recorded
from service.worker.runner import EXIT_UNREACHABLE

PLAN_FLAG = "--write-plan"
CHECK = (sys.executable, "-P", "-m", "lars_agent.training.check_result")
KEEP = 2  # checkpoints, as the worker keeps
WORDS = ("pause", "resume", "stop")


@dataclass
class Carrier:
    """One job on the other machine, from its directory here to its result here."""

    folder: Path
    there: Connection
    worker: list[str]
    threads: int
    priority: str
    takes_model: bool
    stopping: threading.Event

    def carry(self, opened: Message) -> int:
        """Take the job to the folder that was opened there, and bring back what becomes of it; return the exit status.

        Raises Cut, and LarsError if what came back is not sound.
        """
        self.target, spec = str(opened["folder"]), JobSpec.read(self.folder)
        model = self._model(spec)
        if not self.stopping.is_set():
            self._plan()
            self._take(spec)
        same = spec.start is not None and spec.start == spec.parent
        run = {"do": "run", "model": model, "threads": self.threads, "priority": self.priority}
        self.there.send(run | ({"start": PARENT if same else START} if spec.start else {}))
        while True:
            for message in self.there.receive_newest():
                if message.get("say") == "ended":
                    return self._end(int(message["status"]), _texts(message["sums"]))
                self._follow(message)

    def _follow(self, message: Message) -> None:
        """Bring back what the worker has written meanwhile."""
        match message.get("say"):
            case "alive":
                (self.folder / ALIVE_FILE).touch()
            case "progress":
                self._bring({}, PROGRESS_FILE)
            case "plan":
                self._bring({}, PLAN_FILE)
            case "checkpoint":
                with contextlib.suppress(Cut):  # the worker has newer ones; a connection that is cut ends the next call
                    self._bring_checkpoint(str(message["name"]), _texts(message["sums"]))

    def _model(self, spec: JobSpec) -> str:
        """Return the folder of the base model there; carry it there if it may be."""
        found = self._ask({"do": "find model", "sha256": spec.model_sha256}, "model")
        if found["folder"] is not None:
            return str(found["folder"])
        if not self.takes_model:
            raise Cut(
                f"it lacks the base model {spec.base_model or spec.model_sha256[:12]}; install it there with "
                "lars-agent model pull, or set training.runner_takes_model"
            )
        source = Path(spec.model_path)
        files = [path for path in sorted(source.iterdir()) if path.is_file() and not path.name.startswith(".")]
        with self._touching():
            self.there.push(files, str(found["incoming"]), "--copy-links")
        kept = self._ask({"do": "keep model", "sha256": spec.model_sha256}, "model")
        return str(kept["folder"])

    def _plan(self) -> None:
        """Have the worker of this device make the plan; one that it cannot make is made there."""
        with self._touching():
            done = subprocess.run([*self.worker, PLAN_FLAG, str(self.folder)], capture_output=True, check=False)
        if done.returncode:
            sys.stderr.write("the job's memory plan could not be made here\n")

    def _take(self, spec: JobSpec) -> None:
        """Copy there all that the worker reads: examples, adapters, and how far an earlier worker came."""
        names = (TRAIN_FILE, HELDOUT_FILE, SPEC_FILE, PLAN_FILE, PROGRESS_FILE)
        files = [self.folder / name for name in names if (self.folder / name).is_file()]
        with self._touching():
            self.there.push([*files, *self._checkpoints()[:1]], self.target)
            adapters = {PARENT: spec.parent, START: spec.start if spec.start != spec.parent else None}
            for name, source in adapters.items():
                if source is not None:
                    files = [path for path in sorted(Path(source).iterdir()) if path.is_file()]
                    self.there.push(files, f"{self.target}/{name}")

    @contextlib.contextmanager
    def _brought(self, digests: Mapping[str, str], *names: str) -> Iterator[Path]:
        """Copy files and folders from there into a folder that is removed after the block.

        Raises Cut unless each of the files that `digests` names has its sha256.
        """
        with tempfile.TemporaryDirectory(prefix=".incoming-", suffix=".tmp", dir=self.folder) as made:
            incoming = Path(made)
            with self._touching():
                self.there.pull([f"{self.target}/{name}" for name in names], incoming)
                for name, digest in digests.items():
                    if not (incoming / name).is_file() or sha256_of(incoming / name, follow=False) != digest:
                        raise Cut(f"{name} came back damaged")
            yield incoming

    def _bring(self, digests: Mapping[str, str], *names: str) -> None:
        """Copy files and folders from there into the job directory. Raises Cut."""
        with self._brought(digests, *names) as incoming:
            for name in names:
                if (incoming / name).is_dir():
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                    publish_folder(incoming / name, self.folder / name)
                elif (incoming / name).is_file():
                    (incoming / name).replace(self.folder / name)

    def _bring_checkpoint(self, name: str, digests: Mapping[str, str]) -> None:
        """Copy a checkpoint from there and keep the newest two here."""
        if not CHECKPOINT.fullmatch(name) or (self.folder / name).exists():
            return
        self._bring(_within(digests, name), name)
        for old in self._checkpoints()[KEEP:]:
            shutil.rmtree(old)

    def _checkpoints(self) -> list[Path]:
        """Return the checkpoints here, newest first."""
        found = [path for path in self.folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
        return sorted(found, key=lambda path: -int(path.name.partition("-")[2]))

    def _end(self, status: int, digests: Mapping[str, str]) -> int:
        """Bring back what a worker has left that ended with `status`; return the exit status."""
        names = [name for name in (PLAN_FILE, PROGRESS_FILE) if name in digests]
        written = {name: digests[name] for name in names}
        if status == 0 and RESULT_FILE in digests:
            self._bring(written | _within(digests, CANDIDATE), *names, CANDIDATE)
            self._bring_result(digests[RESULT_FILE])
            return 0
        if names:
            self._bring(written, *names)
        folders = {name.partition("/")[0] for name in digests if "/" in name}
        for name in sorted(folders, key=lambda name: int(name.partition("-")[2] or 0))[-1:]:
            self._bring_checkpoint(name, digests)
        if self.stopping.is_set():
            return EXIT_STOPPED
        raise Cut(f"the worker there ended with exit status {status} and no result")

    def _bring_result(self, digest: str) -> None:
        """Copy the result from there if it is a success, and sound. Raises Cut, and the error that the check found."""
        with self._brought({RESULT_FILE: digest}, RESULT_FILE) as incoming:
            result = read_result(incoming)
            if result is None or result.status != "succeeded":
                raise Cut(f"the worker there failed: {result.error if result else 'it left no result'}")
            _require_sound(self.folder, incoming)
            write_atomically(self.folder / RESULT_FILE, (incoming / RESULT_FILE).read_bytes())

    def _ask(self, question: Message, answer: str) -> Message:
        self.there.send(question)
        return answer_of(self.there, answer)

    @contextlib.contextmanager
    def _touching(self) -> Iterator[None]:
        """Show that files are on their way; rsync ends by itself if nothing comes."""
        done = threading.Event()

        def touch() -> None:
            while not done.wait(1.0):
                (self.folder / ALIVE_FILE).touch()

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def answer_of(there: Connection, kind: str) -> Message:
    """Return the guest's next message of this kind. Raises Cut."""
    while True:
        message = there.receive()
        if message.get("say") == kind:
            return message


def greet(there: Connection, address: SshAddress, records: Path) -> None:
    """Wait for the guest, which has removed what was left there; forget the records of that. Raises Cut."""
    hello = answer_of(there, "hello")
    living = hello["left"]
    for one in left(records):
        if one.address == str(address) and one.name not in living:
            forget(one)
    if hello["version"] != package_version():
        raise Cut(f"it has lars-agent {hello['version']}, this device {package_version()}; install the same on both")


def _within(digests: Mapping[str, str], folder: str) -> dict[str, str]:
    """Return the digests of the files in a folder. Raises Cut for a path that leads elsewhere."""
    found = {name: digest for name, digest in digests.items() if name.partition("/")[0] == folder}
    if any(len(Path(name).parts) != 2 or ".." in Path(name).parts for name in found):
        raise Cut(f"it named files outside of {folder}")
    return found


def _texts(values: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}


def _require_sound(folder: Path, incoming: Path) -> None:
    """Check candidate and result as anything foreign, in a process of its own. Raises the error that it finds."""
    done = subprocess.run([*CHECK, str(folder), str(incoming)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise process_error(done, "what came back could not be checked", WorkerFailed)


def _listen(there: Connection, stopping: threading.Event) -> None:
    """Pass on what the daemon says; end with it."""
    for line in sys.stdin:
        if (word := line.strip()) in WORDS:
            if word == "stop":
                stopping.set()
            there.send({"do": word})
    os._exit(EXIT_UNREACHABLE)


def _beat(there: Connection) -> None:
    while True:
        there.send({"do": "beat"})
        threading.Event().wait(BEAT_S)


def main(arguments: list[str]) -> int:
    """Carry the job in `arguments`, and return the exit status."""
    parser = argparse.ArgumentParser()
    for name in ("--threads", "--priority", "--records", "--worker"):
        parser.add_argument(name, required=True)
    parser.add_argument("--carry-model", action="store_true")
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    os.umask(PRIVATE_UMASK)
    stopping = threading.Event()
    try:
        address = parse_runner(given.address)
        assert address is not None
        with connected(address) as there:
            for work, parts in ((_listen, (there, stopping)), (_beat, (there,))):
                threading.Thread(target=work, args=parts, daemon=True).start()
            greet(there, address, Path(given.records))
            worker, threads = json.loads(given.worker), int(given.threads)
            carrier = Carrier(given.folder, there, worker, threads, given.priority, given.carry_model, stopping)
            return _with_folder(carrier, address, Path(given.records))
    except (LarsError, OSError, ValueError, LookupError, TypeError) as error:
        if not isinstance(error, LarsError | OSError):
            traceback.print_exc()
        sys.stderr.write(f"{error}\n")
        return EXIT_STOPPED if stopping.is_set() else EXIT_UNREACHABLE


def _with_folder(carrier: Carrier, address: SshAddress, records: Path) -> int:
    """Carry the job, and have its folder there removed."""
    there = carrier.there
    there.send({"do": "open", "job": carrier.folder.name})
    opened = answer_of(there, "opened")
    with recorded(records, str(address), carrier.folder.name, str(opened["name"])) as record:
        try:
            return carrier.carry(opened)
        finally:
            with contextlib.suppress(Cut):
                remove(there, record)


def remove(there: Connection, record: Left) -> None:
    """Have the folder removed there, and forget its record. Raises Cut."""
    there.send({"do": "remove"})
    if answer_of(there, "removed")["is_gone"]:
        forget(record)


@contextlib.contextmanager
def connected(address: SshAddress, *, is_quiet: bool = False) -> Iterator[Connection]:
    """Connected within the block; what the guest writes to stderr is passed on unless `is_quiet`."""
    there = Connection(address, is_quiet=is_quiet)
    try:
        yield there
    finally:
        there.close()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that reads stdin would be waited for
