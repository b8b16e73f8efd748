"""Outcomes of scheduled runs, and the reason for adapting or not, as a client reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.db.records import ScheduledRun
from tests.service.api.conftest import wait_until

NIGHT = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)


@pytest.fixture
def runs(daemon):
    for number, outcome in enumerate(("skipped", "missed", "ran")):
        moment = NIGHT + timedelta(days=number)
        job_id = "j-1" if outcome == "ran" else None
        daemon.db.scheduled_runs.record(
            ScheduledRun("default", moment, moment, outcome, f"because of {number}", job_id)
        )
    daemon.db.scheduled_runs.record(ScheduledRun("alice", NIGHT, NIGHT, "waiting", "it is hot"))


def test_latest_runs_come_first_with_their_reasons(client, runs):
    found = client.get("/schedule/runs?profile=default").json()["runs"]
    assert [(run["outcome"], run["reason"], run["job_id"]) for run in found] == [
        ("ran", "because of 2", "j-1"),
        ("missed", "because of 1", None),
        ("skipped", "because of 0", None),
    ]
    assert found[0]["scheduled"] == "2026-03-06T03:00:00Z"
    assert len(client.get("/schedule/runs").json()["runs"]) == 4
    assert len(client.get("/schedule/runs?limit=1").json()["runs"]) == 1


def test_earlier_path_gives_the_same_runs_and_is_marked_deprecated(client, runs):
    query = "profile=default&limit=2"
    runs = client.get(f"/schedule/runs?{query}").json()["runs"]
    assert client.get(f"/cycles?{query}").json() == {"cycles": runs}
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/cycles"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/schedule/runs"]["get"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "profile=No%20one", "colour=red"])
def test_invalid_query_is_named(client, query):
    reply = client.get(f"/schedule/runs?{query}")
    assert reply.status_code == 422
    assert query.split("=")[0] in reply.text


def test_info_gives_the_reason_for_not_adapting_and_the_checks(client):
    wait_until(lambda: client.get("/info").json()["night"]["checks"])  # the monitor starts once the model is there
    night = client.get("/info").json()["night"]
    assert night["adapting"] is False
    assert night["words"].startswith("not adapting: nothing is due at this hour")
    names = {check["name"]: check["state"] for check in night["checks"]}
    assert names["window"] == "against"
    assert {"heat", "battery", "people", "recent requests", "cpu", "load", "memory", "pressure", "disk"} <= set(names)
