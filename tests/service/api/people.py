"""Two people on one device, each with a token of their own and twenty facts planted wherever a fact can be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

from service.daemon import Daemon
from service.db.records import ScheduledRun
from service.serving.adapter_switch import AdapterSwitch
from service.settings.load import Settings
from service.settings.sections import Server
from tests.service.api.conftest import client_of, fake_app, wait_until
from tests.store.make import make_candidate, make_draft

TOKEN = "correct horse battery"
ALIASES = {"hers": "alice", "his": "bob", "plain": "base"}
CONVERSATION = "shared"  # an id that both of them have chosen
WORDS = {"alice": "amethyst", "bob": "basalt"}  # of their facts, each with a number behind it


@dataclass
class Person:
    """One of them, with a client that sends the token; `ids` are of what is theirs, by the parameter of a path."""

    name: str
    http: TestClient
    token: str
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> list[str]:
        return [f"{WORDS[self.name]}{number:02}" for number in range(20)]

    def ask(self, method: str, path: str, **options: Any) -> Response:
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        self.http.cookies.clear()
        return self.http.request(method, path, headers=headers, **options)

    def told_in(self, answer: bytes) -> list[str]:
        """The facts, and the name, that stand in the answer."""
        return [text for text in (*self.facts, self.name) if text.encode() in answer.lower()]


@contextmanager
def two_people(folder: Path) -> Iterator[tuple[Person, Person, Daemon]]:
    """Alice, Bob, and the daemon, in which all is planted for both."""
    server = Server(token=TOKEN, model_aliases=ALIASES)
    settings = Settings(data_dir=folder / "data", server=server, schedule={"enabled": False})
    with client_of(fake_app(settings)) as http:
        wait_until(lambda: http.get("/health").status_code == 200)
        wait_until(lambda: http.app.state.daemon.periodic.running)  # jobs of an earlier daemon are taken up before
        people = [Person(name, http, made(http, name)) for name in WORDS]
        for person in people:
            plant(person, http.app.state.daemon, folder)
        yield people[0], people[1], http.app.state.daemon


def made(http: TestClient, profile: str) -> str:
    """A new token of the profile, as its owner makes it."""
    answer = http.post(f"/profiles/{profile}/tokens", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


def plant(person: Person, daemon: Daemon, folder: Path) -> None:
    """Facts in feedback, replies, a file, a job, a version, a run and an alarm."""
    rows = [say(person, fact) for fact in person.facts[:14]]
    taught = [row["id"] for row in rows]
    for fact in person.facts[14:16]:
        body = {"messages": [{"role": "user", "content": f"Say {fact}."}]}
        reply = person.ask("POST", "/v1/chat/completions", json=body, headers={"lars-conversation": CONVERSATION})
        assert reply.status_code == 200, reply.text
    gone = person.ask("DELETE", f"/feedback/{taught.pop()}").json()
    name = person.name
    row = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": person.facts[16]}]}
    files = {"file": (f"{person.facts[17]}.jsonl", json.dumps(row).encode())}
    uploaded = person.ask("POST", "/v1/files", files=files, data={"purpose": "fine-tune"})
    assert uploaded.status_code == 200, uploaded.text
    job = daemon.db.jobs.add(name, "manual", person.facts[17], {"metadata": {"about": person.facts[18]}})
    verdict = {"accepted": True, "reasons": [person.facts[19]]}
    now = datetime.now(UTC)
    daemon.db.jobs.update(job.id, status="failed", error=person.facts[18], verdict=verdict, finished=now)
    draft = replace(make_draft(), job_id=job.id, example_ids=tuple(taught), verdict=verdict)
    daemon.store.publish(name, make_candidate(folder / f"candidate-{name}"), draft)
    daemon.switch.activate(name, 1)
    daemon.db.scheduled_runs.record(ScheduledRun(name, now, now, "skipped", person.facts[19], job.id))
    assert isinstance(daemon.switch, AdapterSwitch)
    daemon.switch.note("adapter_fallback", f"{name} has {person.facts[19]}", name)
    person.ids = {
        "feedback_id": taught[0],
        "interaction_id": reply.json()["id"],
        "response_id": reply.json()["id"],
        "conversation_id": f"only-{name}",
        "erasure_id": gone["erasure_id"],
        "file_id": uploaded.json()["id"],
        "job_id": job.id,
        "profile": name,
        "version": "v1",
        "name": f"{name}@v1",
        "token_id": "t-none",
    }
    person.ask("POST", "/generate", json={"inputs": "Hi"}, headers={"lars-conversation": f"only-{name}"})


def say(person: Person, fact: str) -> Mapping[str, Any]:
    body = {"prompt": f"What is behind door {fact[-2:]}?", "response": "?", "correction": f"It is {fact}."}
    answer = person.ask("POST", "/feedback", json=body, headers={"idempotency-key": f"key-{fact[-2:]}"})
    assert answer.status_code == 201, answer.text
    return answer.json()
