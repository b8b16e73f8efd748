"""Deletions at random moments of a cycle: what is left of the words, and replies of versions that knew them."""

from __future__ import annotations

import gzip
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from bench.child import until
from bench.daemon import daemon_with, quick_settings
from bench.quality.people import invented_name
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from examples.running import Daemon
from lars_agent.errors import LarsError

KEPT, CLIENTS, CYCLE_S, LIMIT_S = 8, 2, 8.0, 120.0
ENDED = 0.5  # of the deletions come after the job has ended, the others at some moment of it
AFTER_S = 2.0  # that the clients go on asking at least
PAUSE_S = 0.3  # between a client's questions, or the worker would never be let work
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")


def measure_forgetting(model: Path, subject: Record) -> dict[str, Any]:
    """Teach a secret, let a job run or not, delete it at some moment, and look for it; as often as the subject says.

    The `traces` are files that hold its words once the erasure is complete, `knew` the replies that were asked for and
    given after the deletion was answered, by a version that had learned it or with its words.
    """
    rng, traces, knew, replies = random.Random(subject["seed"]), list[str](), list[str](), 0
    with daemon_with(model, 0, **quick_settings()) as running:
        for number in range(KEPT):
            _correct(running, f"thing {number}", f"Kept {number}.")
            running.post("/feedback", {"prompt": f"Say {number}.", "response": f"{number}!", "rating": 1})
        for number in range(subject["deletions"]):
            secret = " ".join(invented_name(rng, set()) + invented_name(rng, set()).lower() for _ in range(2))
            feedback_id = _correct(running, f"secret {number}", f"It is {secret}.")
            with _asking(running, f"What is my secret {number}?") as given:
                job = running.post("/jobs", {"profile": "default"})["id"]
                if rng.random() < ENDED:
                    until(lambda job=job: running.get(f"/jobs/{job}")["finished"], LIMIT_S, 0.1)
                time.sleep(rng.uniform(0, CYCLE_S))
                answer = running.http.delete(f"/feedback/{feedback_id}").raise_for_status().json()
                deleted = time.monotonic()
                time.sleep(AFTER_S)
                if not until(lambda job=job: running.get(f"/jobs/{job}")["finished"], LIMIT_S, 0.1):
                    raise LarsError(f"the job did not end: {running.get(f'/jobs/{job}')}")
            path = f"/erasures/{answer['erasure_id']}"
            if not until(lambda path=path: running.get(path)["complete"], LIMIT_S, 0.1):
                raise LarsError(f"the erasure was not completed: {running.get(path)}")
            gone = {f"v{version}" for version in running.get(path)["versions"].get("default", ())}
            later = [reply for moment, reply in given if moment > deleted]
            replies += len(later)
            knew += [text for version, text in later if version in gone or secret in text]
            left = {one for adapter in running.get("/adapters")["adapters"] for one in adapter["example_ids"]}
            knew += [feedback_id] if feedback_id in left else []
            traces += [str(found) for found in _holding(running.state, secret)]
    return {"traces": traces, "knew": knew, "replies": replies}


def _correct(running: Daemon, what: str, correction: str) -> str:
    body = {"prompt": f"What is my {what}?", "response": "?", "correction": correction}
    return str(running.post("/feedback", body)["id"])


@contextmanager
def _asking(running: Daemon, question: str) -> Iterator[list[tuple[float, tuple[str, str]]]]:
    """Clients that ask until the end of the block; the list gets each reply's version and text, and when it was had."""
    done, given = threading.Event(), list[tuple[float, tuple[str, str]]]()
    body = {"inputs": question, "parameters": {"max_new_tokens": 32}}

    def keep_asking() -> None:
        while not done.wait(PAUSE_S):
            with suppress(httpx.HTTPError, KeyError):  # a reply in progress that knows it ends with an error
                reply = running.http.post("/generate", json=body).json()
                given.append((time.monotonic(), (reply["details"]["adapter_version"], reply["generated_text"])))

    threads = [threading.Thread(target=keep_asking) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield given
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _holding(folder: Path, text: str) -> Iterator[Path]:
    """Yield the files under `folder` that hold the text: as it is, in UTF-16, or compressed."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError, gzip.BadGzipFile):
            content = path.read_bytes()
            content += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""
            if any(text.encode(encoding) in content for encoding in ENCODINGS):
                yield path


def forgetting_rows(newest: Newest) -> list[Row]:
    """The traces and the replies of all runs."""
    if not newest:
        return []
    runs: list[Mapping[str, Any]] = list(newest.values())
    words = {name: sum(run[name] for run in runs) for name in ("deletions", "replies")}
    return [
        claimed("forgotten_traces", [sum(len(run["traces"]) for run in runs)], **words),
        claimed("replies_from_a_version_that_knew", [sum(len(run["knew"]) for run in runs)], **words),
    ]


FORGETTING = Store(
    "quality-forgetting.jsonl",
    key=lambda found: (found["deletions"], found["seed"]),
    rows=forgetting_rows,
    shown=("deletions", "seed", "replies", "traces", "knew"),
)
