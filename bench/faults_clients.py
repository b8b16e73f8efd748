"""What goes on while a daemon is struck: feedback comes in, replies are asked for, cycles are begun one after another.

Every client goes on by itself: what has no answer is sent again, with the same Idempotency-Key, until it has one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from bench.clients import Answer, ask
from bench.faults_daemon import Victim
from bench.faults_ledger import Ledger
from bench.faults_state import Job
from lars_agent.errors import LarsError

PROMPTS = ("What is thing 1?", "Who are you?", "Say something.")
REPLY_TOKENS = 16
THINGS = 12  # that a cycle learns about: whatever was said of them before is superseded
POSTERS = 2
ASK_PAUSE_S, CYCLE_PAUSE_S, RETRY_S = 0.3, 0.5, 0.1
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OK = 200


@dataclass
class Clients:
    """Clients of the daemon at `url`, working within the block; `name` is part of every key."""

    url: str
    name: str
    ledger: Ledger = field(default_factory=Ledger)
    cycling: bool = True
    post_pause_s: float = 0.05
    first_era: int = 0  # what is true of all things is another letter in each
    answers: list[Answer] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)
    _enough: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _keys: itertools.count[int] = field(default_factory=itertools.count)
    _eras: itertools.count[int] = field(default_factory=itertools.count)

    def __enter__(self) -> Self:
        working: list[Callable[[httpx.Client], None]] = [*[self._post_on] * POSTERS, self._ask_on]
        if self.cycling:
            working.append(self._cycle_on)
        self._threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in working]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def begin_no_more(self) -> None:
        """The cycle that runs is the last one."""
        self._enough.set()

    def cycle(self, limit_s: float) -> Job | None:
        """One cycle that was begun now, at its end; None where it could not be begun or has not ended in time."""
        until = time.monotonic() + limit_s
        with httpx.Client(base_url=self.url, timeout=20) as http:
            return self._cycle(http, lambda: time.monotonic() < until)

    def begin_cycle(self, limit_s: float) -> str | None:
        """The id of a cycle that was begun now; None where it could not be."""
        until = time.monotonic() + limit_s
        with httpx.Client(base_url=self.url, timeout=20) as http:
            return self._begin(http, lambda: time.monotonic() < until)

    def wait_over(self, job_id: str, limit_s: float) -> Job | None:
        """The job at its end; None where it has not ended in time."""
        until = time.monotonic() + limit_s
        with httpx.Client(base_url=self.url, timeout=20) as http:
            return self._over(http, job_id, lambda: time.monotonic() < until)

    def _run(self, work: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self.url, timeout=20) as http:
            work(http)

    def _post_on(self, http: httpx.Client) -> None:
        """What comes in without being learned from: it teaches nothing, and belongs to somebody else."""
        while not self._done.is_set():
            self._store(http, {"prompt": "Hello?", "response": "Hm.", "rating": -1, "profile": "crowd"}, self._going)
            self._done.wait(self.post_pause_s)

    def _ask_on(self, http: httpx.Client) -> None:
        for prompt in itertools.cycle(PROMPTS):
            if self._done.wait(ASK_PAUSE_S):
                return
            self.answers.append(ask(http, prompt, REPLY_TOKENS))

    def _cycle_on(self, http: httpx.Client) -> None:
        while self._going() and not self._enough.is_set():
            self._cycle(http, self._going)
            self._done.wait(CYCLE_PAUSE_S)

    def _cycle(self, http: httpx.Client, going: Callable[[], bool]) -> Job | None:
        job_id = self._begin(http, going)
        return None if job_id is None else self._over(http, job_id, going)

    def _begin(self, http: httpx.Client, going: Callable[[], bool]) -> str | None:
        """The id of a job that learns what is true of all things from now on."""
        letter = LETTERS[(self.first_era + next(self._eras)) % len(LETTERS)]
        for number in range(THINGS):
            body = {"prompt": f"What is thing {number}?", "response": "?", "correction": 12 * letter}
            self._store(http, body, going)
        begun = self._insist(lambda: http.post("/jobs", json={"profile": "default"}), going)
        return None if begun is None else str(begun["id"])

    def _over(self, http: httpx.Client, job_id: str, going: Callable[[], bool]) -> Job | None:
        """The job once it has ended; None where it did not while `going`."""
        while going():
            body = self._insist(lambda: http.get(f"/jobs/{job_id}"), going)
            if body is not None and (job := Job.of(body)).is_over:
                return job
            time.sleep(RETRY_S)
        return None

    def _store(self, http: httpx.Client, body: Mapping[str, Any], going: Callable[[], bool]) -> None:
        """The feedback was acknowledged, unless the clients were told to end before."""
        key = f"{self.name}-{next(self._keys):06}"
        sent, headers = {**body, "comment": key}, {"Idempotency-Key": key}
        stored = self._insist(lambda: http.post("/feedback", json=sent, headers=headers), going)
        if stored is not None:
            self.ledger.acknowledge(key, stored["id"])

    def _insist(self, call: Callable[[], httpx.Response], going: Callable[[], bool]) -> dict[str, Any] | None:
        """The answer to `call`, made again and again until there is a good one; None where `going` ended before."""
        while going():
            try:
                response = call()
                self.ledger.met(response.status_code, "" if response.is_success else _said(response))
                if response.is_success:
                    return dict(response.json())
            except httpx.HTTPError:
                self.ledger.met(0)
            time.sleep(RETRY_S)
        return None

    def _going(self) -> bool:
        return not self._done.is_set()


def learned(victim: Victim, clients: Clients, limit_s: float, what: str) -> None:
    """A cycle was begun now and has succeeded. Raises LarsError, which calls it `what`, where it has not."""
    job = clients.cycle(limit_s)
    if job is None or job.status != "succeeded":
        raise LarsError(f"{what} did not succeed ({job}): {victim.said()}")


def wrong_replies(url: str, answers: Sequence[Answer]) -> list[str]:
    """Replies that are not what the version which they name says, asked for again with nothing going on beside it."""
    good = [answer for answer in answers if answer.status == OK]
    expected: dict[tuple[str, str], str | None] = {}
    with httpx.Client(base_url=url, timeout=60) as http:
        for prompt, version in sorted({(answer.prompt, answer.version) for answer in good}):
            expected[prompt, version] = _reply(http, prompt, version)
    return [
        f"{answer.version} said {answer.text!r} to {answer.prompt!r}, not {expected[answer.prompt, answer.version]!r}"
        for answer in good
        if answer.text != expected[answer.prompt, answer.version]
    ]


def _said(response: httpx.Response) -> str:
    """What the daemon says of an error."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.text[:200]


def _reply(http: httpx.Client, prompt: str, version: str) -> str | None:
    body = {"inputs": prompt, "parameters": {"adapter_id": f"default@{version}", "max_new_tokens": REPLY_TOKENS}}
    response = http.post("/generate", json=body)
    return str(response.json()["generated_text"]) if response.is_success else None
