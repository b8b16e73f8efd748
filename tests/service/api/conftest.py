"""A daemon with everything real but the model: its engine is a fake that honours the engine's seam."""

from __future__ import annotations

import json
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from lars_agent.errors import GenerationCancelled, LarsError, PromptTooLong
from lars_agent.runtime.embedded import Embedded, Input, encoded
from lars_agent.runtime.request import Generation, GenerationRequest, Piece, Ticket, TokenChoice, TokenLogprob
from lars_agent.store.adapters import AdapterStore
from service.app import create_app
from service.db.engine import writing
from service.settings.load import Settings

SHA256 = "b" * 64
LONGEST = 200  # input to embed
BASE_URL = "http://127.0.0.1:8321"


@dataclass(frozen=True)
class FakeModel:
    """An installed model that is not there."""

    name: str = "fake"
    reference: str = "fake"
    revision: str | None = None
    sha256: str = SHA256
    folder: Path = Path("nowhere")
    installed: str = "2026-11-25T12:00:00+00:00"
    bytes: int = 1000


class FakeEngine:
    """Replies "echo: " and the last message, with the adapters of a real store, whose bytes it never loads."""

    def __init__(self, store: AdapterStore, sha256: str = SHA256) -> None:
        self.store, self.sha256 = store, sha256
        self.tickets: list[Ticket] = []
        self.refuse_submit: Exception | None = None
        self.refuse_swap: LarsError | None = None
        self.break_reply: LarsError | None = None
        self.openings: dict[int | None, str] = {}  # of a version's replies
        self.gate = threading.Event()
        self.gate.set()
        self.closed, self.is_alive, self.pid = False, True, os.getpid()
        self._active: dict[str, int | None] = {}

    def submit(self, request: GenerationRequest) -> Ticket:
        if self.refuse_submit is not None:
            raise self.refuse_submit
        version = self._active.get(request.profile) if request.version == "active" else request.version
        if version is not None:
            self.store.folder(request.profile, version)
        recalled = tuple((index, 1.0) for index, _ in enumerate(request.recalled[: request.recall_limit]))
        ticket = Ticket(request, request.seed or 0, version, recalled)
        self.tickets.append(ticket)
        threading.Thread(target=self._reply, args=(ticket, self.break_reply), daemon=True).start()
        return ticket

    def _reply(self, ticket: Ticket, error: LarsError | None) -> None:
        """Say the reply word by word; hold on while `gate` is shut."""
        has_tokens = ticket.request.logprobs is not None
        words = [self.openings.get(ticket.version, "echo: "), ticket.request.messages[-1]["content"]]
        for word in words:
            while not self.gate.wait(0.01):
                if ticket.cancelled:
                    cancelled = "the request was cancelled before its reply was finished"
                    ticket.finish(None, GenerationCancelled(cancelled))
                    return
            ticket.give(Piece(word, (token_of(word),) if has_tokens else ()))
        whole = Generation("".join(words), "eos_token", 3, len(words), ticket.version, ticket.seed, ())
        whole = replace(whole, end=token_of("") if has_tokens else None)
        ticket.finish(whole if error is None else None, error)

    def embed(self, inputs: Sequence[Input], truncate: bool) -> list[Embedded]:
        """The number of characters or tokens, and 4: vectors of four numbers that are not of norm 1."""
        if any(len(one) > LONGEST for one in inputs) and not truncate:
            raise PromptTooLong(f"a text has more than {LONGEST} tokens")
        return [Embedded(encoded(array("f", [min(len(one), LONGEST), 4, 0, 0])), len(one)) for one in inputs]

    def prepare(self, profile: str, version: int) -> bool:
        self.store.verify(profile, version, self.sha256)
        return True

    def swap(self, profile: str, version: int | None) -> None:
        if (refusal := self.refuse_swap) is not None:  # once: what served before may serve again
            self.refuse_swap = None
            raise refusal
        self._active[profile] = version

    def forget(self, profile: str, versions: Sequence[int]) -> None:
        if self._active.get(profile) in versions:
            self._active[profile] = None

    def serving(self, profile: str) -> int | None:
        return self._active.get(profile)

    def close(self, timeout_s: float = 10.0) -> None:
        self.closed = True


def token_of(word: str) -> TokenLogprob:
    return TokenLogprob(TokenChoice(len(word), word, -0.5), ())


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(data_dir=tmp_path / "data", schedule={"enabled": False})


@pytest.fixture
def start():
    """Gives a function that starts an app and returns its client; all are stopped at the end."""
    with ExitStack() as stack:
        yield lambda settings, **options: stack.enter_context(client_of(fake_app(settings, **options)))


def client_of(app: FastAPI, client: tuple[str, int] = ("127.0.0.1", 50000)) -> TestClient:
    return TestClient(app, base_url=BASE_URL, raise_server_exceptions=False, client=client)


def fake_app(settings: Settings, **options: object) -> FastAPI:
    parts = {"find_model": FakeModel, "open_engine": opener(settings)}
    return create_app(settings, **{**parts, **options})


def opener(settings: Settings, sha256: str = SHA256):
    store = AdapterStore(settings.adapters_dir)
    return lambda installed: FakeEngine(store, sha256)


@pytest.fixture
def client(start, settings) -> TestClient:
    client = start(settings)
    wait_until(lambda: client.get("/health").status_code == 200)
    return client


@pytest.fixture(scope="module")
def resident(tmp_path_factory) -> Iterator[TestClient]:
    """One client for tests that change nothing."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), schedule={"enabled": False})
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


@pytest.fixture
def daemon(client):
    return client.app.state.daemon


@pytest.fixture
def engine(daemon) -> FakeEngine:
    with daemon.model_host.engine() as engine:
        return engine


def stream_events(response) -> Iterator[dict]:
    for line in response.text.splitlines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.fixture
def no_room(daemon):
    """The database may not grow, whichever connection asks; called, it may again."""
    with writing(daemon.db.engine) as connection:
        pages = [connection.execute(text("PRAGMA page_count")).scalar_one()]

    def limit(connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[-1]}")

    event.listen(daemon.db.engine, "checkout", limit)
    yield lambda: pages.append(1_000_000)
    event.remove(daemon.db.engine, "checkout", limit)
