"""The engine in a process of its own: the same replies and errors, and a clean end when it is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from lars_agent.calibration import Calibration
from lars_agent.errors import AdapterNotFound, GenerationCancelled, GenerationError, ModelNotFound, PromptTooLong
from lars_agent.example import Message
from lars_agent.models.arithmetic import Arithmetic, timing_name
from lars_agent.models.open import open_model
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.runtime.rpc import EngineOptions
from lars_agent.store.adapters import AdapterStore
from service.serving.engine_client import EngineClient
from tests.runtime.conftest import publish
from tests.tiny import save_tiny

LONG_S = 60.0


def request(text: str = "Hello?", **changes) -> GenerationRequest:
    return GenerationRequest((Message(role="user", content=text),), **{"max_new_tokens": 12} | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def opened(folder):
    torch.set_num_threads(1)
    return open_model(folder, torch.float32)


def options(folder, adapters, **changes) -> EngineOptions:
    values = {"dtype": "float32", "threads": 1, "queue_size": 3, "parallel": 2, "prefix_bytes": 10**7}
    return EngineOptions(str(folder), adapters_path=str(adapters), **values | changes)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def store(adapters):
    return AdapterStore(adapters)


@pytest.fixture(scope="module")
def process(folder, adapters):
    made = EngineClient(options(folder, adapters))
    yield made
    made.close()
    assert not Path(f"/proc/{made.pid}").exists()


def test_replies_streams_and_seeds_are_those_of_the_engine(process, opened, store):
    engine = Engine(opened, store, threads=1)
    for changes in ({}, {"temperature": 1.0}, {"stop": ("a", "e")}):
        ours, theirs = (one.submit(request(seed=5, **changes)) for one in (process, engine))
        assert list(ours) == list(theirs)
        assert ours.result(LONG_S) == theirs.result(LONG_S)
    drawn = process.submit(request(temperature=1.0))
    assert drawn.result(LONG_S).seed == drawn.seed
    engine.close()


def test_a_processor_that_is_slow_in_bfloat16_replies_as_in_float32(folder, opened, store, adapters, tmp_path):
    file = tmp_path / "costs.json"
    Calibration(file).get(Arithmetic, timing_name(), lambda: (Arithmetic(bfloat16=3.0, float32=1.0), True))
    process, engine = EngineClient(options(folder, adapters, dtype="auto", costs_file=str(file))), Engine(opened, store)
    ours, theirs = (one.submit(request("Tell me more?" * 4, max_new_tokens=1)) for one in (process, engine))
    assert ours.result(LONG_S).token_ids == theirs.result(LONG_S).token_ids
    process.close()
    engine.close()


def test_swap_is_visible_in_the_client_once_the_engine_has_done_it(process, opened, store, tmp_path):
    version = publish(store, opened, tmp_path, 1)
    before = process.submit(request()).result(LONG_S)
    process.swap("default", version)
    assert process.serving("default") == version
    after = process.submit(request()).result(LONG_S)
    assert (before.adapter_version, after.adapter_version) == (None, version)
    assert before.token_ids != after.token_ids
    process.swap("default", None)
    assert process.submit(request()).result(LONG_S).token_ids == before.token_ids


@pytest.mark.parametrize(
    ("changes", "error"), [({"version": 99}, AdapterNotFound), ({"text": "x" * 600}, PromptTooLong)], ids=str
)
def test_errors_of_the_engine_are_raised_by_the_client(process, changes, error):
    with pytest.raises(error):
        process.submit(request(**changes))


def test_a_cancelled_reply_ends(process):
    ticket = process.submit(request(max_new_tokens=400, temperature=5.0))
    ticket.cancel()
    with pytest.raises(GenerationCancelled):
        ticket.result(LONG_S)


def test_failure_to_open_the_model_is_raised(tmp_path, adapters):
    with pytest.raises(ModelNotFound, match="holds no model"):
        EngineClient(options(tmp_path, adapters))


def test_hanging_process_is_killed_at_close(folder, adapters):
    process = EngineClient(options(folder, adapters))
    os.kill(process.pid, signal.SIGSTOP)
    process.close(timeout_s=0.1)
    assert not Path(f"/proc/{process.pid}").exists()


def test_killed_process_fails_the_waiting_requests(folder, adapters):
    ended: list[Ticket] = []
    process = EngineClient(options(folder, adapters))
    tickets = [process.submit(request(max_new_tokens=450, temperature=9.0)) for _ in range(3)]
    for ticket in tickets:
        ticket.add_done_callback(ended.append)
    os.kill(process.pid, signal.SIGKILL)
    for ticket in tickets:
        with pytest.raises(GenerationError, match="has ended"):
            ticket.result(LONG_S)
    assert not process.is_alive
    with pytest.raises(GenerationError, match="has ended"):
        process.submit(request())
    process.close()
    assert sorted(map(id, ended)) == sorted(map(id, tickets))  # each once
