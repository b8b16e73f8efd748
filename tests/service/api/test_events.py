"""The stream of state: daemon, newest job and progress of one moment, gone on with after a break."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.api import events
from tests.service.api.conftest import fake_app
from tests.service.api.test_jobs import STANDIN
from tests.service.dashboard.conftest import served

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(events, "POLL_S", 0.05)


@pytest.fixture
def release(tmp_path):
    """The file for which the stand-in worker waits."""
    return tmp_path / "release"


@pytest.fixture
def http(settings, release) -> Iterator[httpx.Client]:
    command = (sys.executable, str(STANDIN), "--wait", str(release))
    with served(fake_app(settings, worker_command=command)) as address, httpx.Client(base_url=address) as http:
        deadline = time.monotonic() + 20
        while not http.get("health").is_success and time.monotonic() < deadline:
            time.sleep(0.02)
        for i in range(4):
            http.post("feedback", json={"prompt": f"House {i}?", "response": "?", "correction": f"It is {i}."})
        yield http
        release.touch()


@contextmanager
def following(http: httpx.Client, last_id: str = "") -> Iterator[Iterator[tuple[str, Json]]]:
    """The events, each an id and its data."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with http.stream("GET", "events", headers=headers, timeout=20) as reply:
        yield _events(reply)


def _events(reply: httpx.Response) -> Iterator[tuple[str, Json]]:
    found: Json = {}
    for line in reply.iter_lines():
        name, _, value = line.partition(": ")
        found[name] = value
        if not line and "data" in found:
            assert found["event"] == "state"
            yield found["id"], json.loads(found["data"])
            found = {}


def test_a_job_is_followed_from_its_start_to_its_end_without_a_contradiction(http, release):
    with following(http) as told:
        _, first = next(told)
        assert (first["job"], first["progress"], first["info"]["feedback"]["corrections"]) == (None, [], 4)
        job_id = http.post("jobs").json()["id"]
        lines: list[Json] = []
        for _, event in told:
            job, info = event["job"], event["info"]
            assert job["id"] == job_id
            assert (info["job"] == job_id) == (job["finished"] is None and job["status"] != "queued")
            assert event["skipped"] == len(lines)
            lines += event["progress"]
            if len(lines) > 2:
                release.touch()
            if job["finished"]:
                break
    assert (job["status"], info["serving"]) == ("succeeded", {"default": "v1"})
    assert lines == http.get(f"jobs/{job_id}/progress").json()["progress"]


def test_after_a_break_it_goes_on_behind_what_the_client_has(http, release):
    release.touch()
    job_id = http.post("jobs").json()["id"]
    while http.get(f"jobs/{job_id}").json()["finished"] is None:
        time.sleep(0.05)
    whole = http.get(f"jobs/{job_id}/progress").json()["progress"]
    for last_id, skipped in ((f"{job_id}:2", 2), (f"{job_id}:999", len(whole)), ("j-other:2", 0), ("nonsense", 0)):
        with following(http, last_id) as told:
            event_id, event = next(told)
        assert (event["skipped"], event["progress"]) == (skipped, whole[skipped:])
        assert event_id == f"{job_id}:{len(whole)}"


def test_where_nothing_happens_nothing_is_sent_but_a_heartbeat(http, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 1.0)
    with following(http) as told:
        next(told)
        began = time.monotonic()
        next(told)
    assert time.monotonic() - began >= 0.9


def test_another_profile_has_jobs_of_its_own(http):
    http.post("jobs")
    with http.stream("GET", "events", params={"profile": "work"}, timeout=20) as reply:
        assert next(_events(reply))[1]["job"] is None
    assert http.get("events", params={"profile": "v1"}).status_code == 422
