"""The load on a daemon under test: feedback, replies, and cycles begun one after another.

A request that fails is sent again, with the same Idempotency-Key, until it is answered.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from bench.daemon import Answer, ask
from bench.faults.state import Job
from lars_agent.records import from_json

PROMPTS = ("What is thing 1?", "Who are you?", "Say something.")
REPLY_TOKENS = 16
SAID = 200  # characters of an error that are kept
THINGS = 12  # that a cycle learns about: earlier feedback on them is superseded
POSTERS = 2
ASK_PAUSE_S, CYCLE_PAUSE_S, RETRY_S, CYCLE_LIMIT_S = 0.3, 0.5, 0.1, 240.0
WORDS = (
    *("anchor", "basket", "candle", "donkey", "engine", "feather", "garden", "hammer", "island", "jacket", "kettle"),
    *("lantern", "mirror", "needle", "orchard", "pillow", "quarry", "rabbit", "saddle", "teapot", "umbrella", "valley"),
    *("window", "yellow door", "zebra", "bridge"),
)
LESSONS = tuple(f"It is the {word}." for word in WORDS)  # letters in a row would be neither learned nor published
THINGS = 12  # that a cycle learns about: earlier feedback on them is superseded
POSTERS = 2
ASK_PAUSE_S, CYCLE_PAUSE_S, RETRY_S, CYCLE_LIMIT_S = 0.3, 0.5, 0.1, 240.0
WORDS = [
    "anchor",
    "basket",
    "candle",
    "donkey",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "lantern",
    "mirror",
]
LESSONS = tuple(f"It is the {word}." for word in WORDS)  # in words: letters in a row are neither learned nor published
NO_LESSON = {"prompt": "Hello?", "response": "Hm.", "rating": -1, "profile": "crowd"}  # of another profile
Condition = Callable[[], bool]


def within(limit_s: float = CYCLE_LIMIT_S) -> Condition:
    """A condition that holds for that many seconds from now on."""
    until = time.monotonic() + limit_s
    return lambda: time.monotonic() < until


@dataclass
class Clients:
    """Clients of the daemon at `url`, working within the block; `name` is part of every key.

    Attributes:
        first_era: in each era another of the `LESSONS` is the answer to all questions.
        acknowledged: the id of each acknowledged Idempotency-Key.
        failed: every status that is an error, with its message.
        replies: all that was generated. Threads only add single items to these three, which is atomic.
        enough: once it is set, the running cycle is the last one.
    """

    url: str
    name: str
    cycling: bool = True
    post_pause_s: float = 0.05
    first_era: int = 0
    acknowledged: dict[str, str] = field(default_factory=dict)
    failed: list[tuple[int, str]] = field(default_factory=list)
    replies: list[Answer] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)
    _done: threading.Event = field(default_factory=threading.Event)
    _keys: itertools.count[int] = field(default_factory=itertools.count)
    _eras: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=20)

    def __enter__(self) -> Self:
        work = [*[self._post_on] * POSTERS, self._ask_on, *([self._cycle_on] if self.cycling else [])]
        self._threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def errors(self) -> dict[str, list[str]]:
        """The different messages of each status that is an error."""
        found = sorted(set(self.failed))
        return {str(status): [text for other, text in found if other == status] for status, _ in found}

    def cycle(self, going: Condition) -> Job | None:
        """Begin a cycle now and return it at its end; None where it could not begin or end while `going`."""
        job_id = self.begin_cycle(going)
        while going():
            body = self._insist(lambda: self._http.get(f"/jobs/{job_id}"), going)
            if body is not None and (job := from_json(Job, body)).is_over:
                return job
            time.sleep(RETRY_S)
        return None

    def begin_cycle(self, going: Condition) -> str | None:
        """Begin a job that learns another answer to all questions; return its id, None where it could not begin."""
        lesson = LESSONS[(self.first_era + next(self._eras)) % len(LESSONS)]
        for number in range(THINGS):
            self._store({"prompt": f"What is thing {number}?", "response": "?", "correction": lesson}, going)
        begun = self._insist(lambda: self._http.post("/jobs", json={"profile": "default"}), going)
        return None if begun is None else str(begun["id"])

    def _post_on(self) -> None:
        while not self._done.is_set():
            self._store(NO_LESSON, self._going)
            self._done.wait(self.post_pause_s)

    def _ask_on(self) -> None:
        for prompt in itertools.cycle(PROMPTS):
            if self._done.wait(ASK_PAUSE_S):
                return
            self.replies.append(ask(self._http, prompt, REPLY_TOKENS))

    def _cycle_on(self) -> None:
        while self._going() and not self.enough.is_set():
            self.cycle(self._going)
            self._done.wait(CYCLE_PAUSE_S)

    def _store(self, body: Mapping[str, Any], going: Condition) -> None:
        """Store feedback until it is acknowledged, or no longer `going`."""
        key = f"{self.name}-{next(self._keys):06}"
        sent, headers = {**body, "comment": key}, {"Idempotency-Key": key}
        stored = self._insist(lambda: self._http.post("/feedback", json=sent, headers=headers), going)
        if stored is not None:
            self.acknowledged[key] = stored["id"]

    def _insist(self, call: Callable[[], httpx.Response], going: Condition) -> dict[str, Any] | None:
        """Repeat the call until it succeeds; return its answer, None where `going` ended before."""
        while going():
            try:
                response = call()
                if response.is_success:
                    return dict(response.json())
                self.failed.append((response.status_code, response.text[:SAID]))
            except httpx.HTTPError:
                pass  # it is dead, or being started
            time.sleep(RETRY_S)
        return None

    def _going(self) -> bool:
        return not self._done.is_set()
