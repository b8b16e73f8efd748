"""Unloading of the idle model, loading for the next request, and the busy state."""

from __future__ import annotations

import threading

import pytest

from lars_agent.errors import AdapterCorrupt, GenerationCancelled, GenerationError, ModelLoading, QueueFull
from lars_agent.example import Message
from lars_agent.runtime.request import GenerationRequest
from lars_agent.store.adapters import AdapterStore
from service.process.idle_timer import IdleTimer
from service.serving.adapter_switch import AdapterSwitch
from service.serving.model_host import ModelHost
from service.settings.load import Settings
from tests.service.api.conftest import SHA256, FakeEngine, FakeModel
from tests.service.house import until
from tests.store.make import make_candidate, make_draft

REQUEST = GenerationRequest((Message(role="user", content="Hello?"),))


class Opener:
    """Remembers the engines that it opened."""

    def __init__(self, store: AdapterStore) -> None:
        self.store, self.engines, self.sha256 = store, [], SHA256
        self.busy: list[bool] = []

    def __call__(self, installed) -> FakeEngine:
        self.engines.append(FakeEngine(self.store, self.sha256))
        return self.engines[-1]


@pytest.fixture
def opener(tmp_path):
    return Opener(AdapterStore(tmp_path))


@pytest.fixture
def serve(opener):
    made = []

    def start(keep_alive_s: float) -> ModelHost:
        serving = ModelHost(opener.store, FakeModel, opener, keep_alive_s=keep_alive_s, on_busy=opener.busy.append)
        ready = threading.Event()
        opener.switch = AdapterSwitch(opener.store, serving.engine, serving.opened_engine, serving.require_model)
        serving.start(opener.switch.serve_profiles, ready.set)
        assert ready.wait(10)
        made.append(serving)
        return serving

    yield start
    for serving in made:
        serving.close()


def test_idle_model_is_unloaded_and_loaded_again_for_the_next_request(serve, opener):
    serving = serve(0.1)
    until(lambda: serving.is_asleep, "the model is unloaded")
    assert opener.engines[0].closed
    assert serving.serving() == {"default": None}
    assert serving.submit(REQUEST).result().text == "echo: Hello?"
    assert len(opener.engines) == 2


def test_model_is_not_unloaded_during_a_reply(serve, opener):
    serving = serve(0.1)
    engine = opener.engines[0]
    engine.gate.clear()
    serving.submit(REQUEST)
    assert not threading.Event().wait(0.4)
    assert not serving.is_asleep
    engine.gate.set()
    until(lambda: serving.is_asleep, "the model is unloaded")


def test_model_stays_loaded_without_keep_alive_time(serve, opener):
    serving = serve(0.0)
    serving.submit(REQUEST).result()
    assert not threading.Event().wait(0.3)
    assert not serving.is_asleep


def test_keep_alive_time_can_be_changed_while_it_runs(serve, opener):
    serving = serve(0.0)
    serving.use(Settings(runtime={"keep_alive_s": 0.1}))
    serving.submit(REQUEST)
    until(lambda: serving.is_asleep, "the model is unloaded")


def test_problem_of_an_adapter_is_reported_once_however_often_the_model_is_loaded(serve, opener, tmp_path):
    opener.store.publish("default", make_candidate(tmp_path / "candidate"), make_draft())
    opener.store.activate("default", 1)
    opener.sha256 = "c" * 64
    serving = serve(0.1)
    until(lambda: serving.is_asleep, "the model is unloaded")
    serving.submit(REQUEST)
    assert len(opener.engines) == 2
    assert [problem.code for problem in opener.switch.problems] == ["adapter_set_aside"]


def test_problem_of_an_adapter_is_cleared_once_another_one_is_active(serve, opener, tmp_path):
    for version in (1, 2):
        opener.store.publish("default", make_candidate(tmp_path / f"candidate{version}"), make_draft())
    opener.store.activate("default", 2)
    (opener.store.folder("default", 2) / "adapter_model.safetensors").write_bytes(b"damaged")
    serve(0.0)
    assert [problem.code for problem in opener.switch.problems] == ["adapter_fallback"]
    with pytest.raises(AdapterCorrupt):
        opener.switch.activate("default", 2)
    assert len(opener.switch.problems) == 1
    opener.switch.activate("default", 1)
    assert opener.switch.problems == []


@pytest.mark.parametrize("ending", ["whole", "failed", "cancelled"])
def test_host_is_busy_from_the_first_request_until_the_last_one_is_done(serve, opener, ending):
    serving = serve(0.0)
    engine = opener.engines[0]
    engine.break_reply = GenerationError("out of steam") if ending == "failed" else None
    engine.gate.clear()
    tickets = [serving.submit(REQUEST) for _ in range(3)]
    tickets[0].cancel()
    until(lambda: tickets[0].is_done, "the first ends")
    assert opener.busy == [True]
    if ending == "cancelled":
        serving.cancel()
    else:
        engine.gate.set()
    until(lambda: len(opener.busy) == 2, "it is idle")
    assert opener.busy == [True, False]
    assert all(ticket.is_done for ticket in tickets)


def test_request_that_the_engine_refuses_makes_nothing_busy(serve, opener):
    serving = serve(0.0)
    opener.engines[0].refuse_submit = QueueFull("8 requests wait already")
    with pytest.raises(QueueFull):
        serving.submit(REQUEST)
    assert opener.busy == []


def test_closing_cancels_the_replies_that_are_not_whole(serve, opener):
    serving = serve(0.0)
    opener.engines[0].gate.clear()
    ticket = serving.submit(REQUEST)
    assert serving.unfinished == 1
    serving.close()
    with pytest.raises(GenerationCancelled):
        ticket.result()
    assert serving.unfinished == 0


def test_an_engine_that_has_ended_is_opened_again(serve, opener):
    serving = serve(0.0)
    opener.engines[0].is_alive = False
    assert serving.submit(REQUEST).result().text == "echo: Hello?"
    assert [engine.closed for engine in opener.engines] == [True, False]
    assert serving.engines_lost == 1


def test_requests_are_refused_until_the_model_is_loaded(opener):
    serving = ModelHost(opener.store, FakeModel, opener)
    with pytest.raises(ModelLoading):
        serving.submit(REQUEST)


def test_closed_timer_never_fires():
    fired = threading.Event()
    timer = IdleTimer(0.05, fired.set)
    timer.restart()
    timer.close()
    timer.restart()
    assert not fired.wait(0.2)
