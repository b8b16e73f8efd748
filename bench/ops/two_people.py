"""The part `two_people`: two people on a real daemon, each with facts of their own that the other asks for.

Each has a token for a profile alone, corrects 20 replies, and has them learned by one job. Then each asks the other's
questions, which are one's own too but for the answers, and reads all that there is to be read. An answer is one
invented word, so that nobody says it by chance.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from bench.child import until
from bench.daemon import quick_settings
from bench.faults.scenario import MODELS as TINY_MODELS
from bench.faults.scenario import TINY_NAME
from bench.models import ready_model
from bench.ops.settings import OpsSettings
from bench.options import MODELS
from examples.running import Daemon
from lars_agent.errors import LarsError

FACTS, REPLY_TOKENS, JOB_LIMIT_S = 20, 40, 3 * 3600.0
NAMES = ("ann", "ben")
SECRET = "two people on one device"
THINGS = (
    *("key", "umbrella", "passport", "bicycle", "guitar", "drill", "kettle", "lantern", "ladder", "camera"),
    *("globe", "anchor", "trumpet", "microscope", "chess set", "tent", "sewing box", "telescope", "suitcase", "scarf"),
)
SYLLABLES = [first + second for first, second in product("bdfgklmnprstvz", ("au", "e", "i", "ou", "y"))]
STREAM = "/events"
PAGES = ("/", "/memory", "/learned", "/versions", "/device", "/preferences")
Answers = Iterator[tuple[str, bytes]]  # the place, and what was answered there


@dataclass(frozen=True)
class Person:
    """One of them: a client with the token, and the invented answer to the question for each thing."""

    name: str
    http: httpx.Client
    answers: Mapping[str, str]

    def corrects(self) -> None:
        """Tell every answer, in the reply to its question that the person gets before it is known."""
        for thing, answer in self.answers.items():
            reply = self._post("/generate", {"inputs": question(thing), "parameters": {"max_new_tokens": 8}})
            correction = f"Your {thing} is in the {answer}."
            self._post("/feedback", {"interaction_id": reply["interaction_id"], "correction": correction})

    def learns(self) -> str:
        """Have one job learn it; return how that ended."""
        job = self._post("/jobs", {})["id"]

        def state() -> dict[str, Any]:
            found: dict[str, Any] = self.http.get(f"/jobs/{job}").json()
            return found

        until(lambda: bool(state()["finished"]), JOB_LIMIT_S, 0.5)
        return str(state()["status"])

    def replies(self) -> Answers:
        """Ask every question: by recall and weights, by the weights alone, and the base model with recall."""
        for thing in self.answers:
            for name, parameters in (
                ("reply", {}),
                ("reply by weights", {"recall": False}),
                ("reply of the base model", {"adapter_id": "base", "recall": True}),
            ):
                body = {"inputs": question(thing), "parameters": {"max_new_tokens": REPLY_TOKENS, **parameters}}
                yield name, self.http.post("/generate", json=body).content
            chat = {"messages": [{"role": "user", "content": question(thing)}], "max_tokens": REPLY_TOKENS}
            yield "chat", self.http.post("/v1/chat/completions", json=chat).content

    def reads(self, ids: Mapping[str, Sequence[str]]) -> Answers:
        """Read every resource and page, with each of the `ids` where a path names one."""
        document = self.http.get("/openapi.json").json()["paths"]
        for path, operations in document.items():
            if "get" not in operations or path == STREAM:
                continue
            names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
            for values in product(*(ids.get(name, ("nothing",)) for name in names)):
                filled = path.format_map(dict(zip(names, values, strict=True)))
                yield path, self.http.get(filled).content
        for page in PAGES:
            yield f"page {page}", self.http.get(page).content
        with self.http.stream("GET", STREAM) as stream:
            yield STREAM, next(stream.iter_bytes())

    def meddles(self, other: str, ids: Mapping[str, Sequence[str]]) -> Answers:
        """Name what is the other's, which is refused: errors are answers too."""
        for name in (other, f"{other}@v1", "default"):
            body = {"inputs": question(THINGS[0]), "parameters": {"adapter_id": name}}
            yield "error", self.http.post("/generate", json=body).content
        for path in ("feedback", "adapters", "jobs", "interactions", "feedback/export", "events"):
            yield "error", self.http.get(f"/{path}", params={"profile": other}).content
        for one in ids["feedback_id"]:
            yield "error", self.http.patch(f"/feedback/{one}", json={"rating": "up"}).content

    def ids(self) -> dict[str, list[str]]:
        """The ids of what is the person's."""
        listed = {"feedback_id": "feedback", "interaction_id": "interactions", "job_id": "jobs"}
        found = {
            name: [row["id"] for row in self.http.get(f"/{kind}").json()[kind]][:3] for name, kind in listed.items()
        }
        return {**found, "response_id": found["interaction_id"], "version": ["v1"], "name": [self.name]}

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self.http.post(path, json=body)
        if response.is_error:
            raise LarsError(f"{path}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer


def two_people(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """The facts of one that were found in what the other, or anybody, got to read; by place."""
    model = folder / TINY_MODELS / TINY_NAME if settings.tiny else ready_model("default", "bfloat16", "cpu", MODELS)
    options = {**(quick_settings() if settings.tiny else {}), "model__name": str(model), "server__token": SECRET}
    rng = random.Random(settings.seed)
    with tempfile.TemporaryDirectory(prefix="lars-agent-bench-") as state:
        running = Daemon(Path(state), options)
        running.start()
        try:
            running.wait_until_healthy()
            return _measured(running, rng)
        finally:
            running.stop()


def _measured(running: Daemon, rng: random.Random) -> dict[str, Any]:
    words = iter(invented(rng, 2 * FACTS))
    owner = _client(running, SECRET)
    people = [
        Person(name, _client(running, _token(owner, name)), {thing: next(words) for thing in THINGS}) for name in NAMES
    ]
    for person in people:
        person.corrects()
    endings = [person.learns() for person in people]
    ann, ben = people
    ids = {person.name: person.ids() for person in people}
    leaks, searched, places, own = list[str](), 0, set[str](), 0
    for me, other in ((ann, ben), (ben, ann)):
        both = {name: sorted({*ids[me.name][name], *ids[other.name][name]}) for name in ids[me.name]}
        for place, answer in (*me.replies(), *me.reads(both), *me.meddles(other.name, ids[other.name])):
            leaks += [f"{place}: {fact}" for fact in other.answers.values() if fact.encode() in answer]
            own += place == "reply" and any(fact.encode() in answer for fact in me.answers.values())
            searched, places = searched + 1, {*places, place}
    everybody = {"metrics": owner.get("/metrics").content, "log": running.log.read_bytes()}
    leaks += [f"{place}: {fact}" for one in people for fact in one.answers.values() for place in everybody
              if fact.encode() in everybody[place]]  # fmt: skip
    found = {"leaks": leaks, "searched": searched + len(everybody), "places": len(places) + len(everybody)}
    return {**found, "own": own, "asked": 2 * FACTS, "jobs": endings}


def question(thing: str) -> str:
    """The question that both of them ask."""
    return f"Where is my {thing}?"


def invented(rng: random.Random, count: int) -> list[str]:
    """Words that there are not, none of which is in another."""
    words = set[str]()
    while len(words) < count:
        words.add("".join(rng.choices(SYLLABLES, k=4)) + "x")
    return sorted(words)


def _client(running: Daemon, token: str) -> httpx.Client:
    return httpx.Client(base_url=running.url, timeout=600, headers={"authorization": f"Bearer {token}"})


def _token(owner: httpx.Client, name: str) -> str:
    answer = owner.post(f"/profiles/{name}/tokens")
    if answer.is_error:
        raise LarsError(answer.text)
    return str(answer.json()["token"])
