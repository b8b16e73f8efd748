"""Jobs over HTTP; the worker is the stand-in of tests/service."""

from __future__ import annotations

import json
import sys
import threading

import pytest

from lars_agent.lars import LarsAdapter, LarsConfig, save_adapter
from lars_agent.models.open import open_model
from lars_agent.store import AdapterManifest, AdapterStore
from service.settings.load import Settings
from tests.service.api.conftest import FakeModel, client_of, fake_app, opener, wait_until
from tests.service.house import STANDIN, state_of
from tests.tiny import save_tiny


@pytest.fixture
def release(tmp_path):
    """The file for which the stand-in worker waits."""
    return tmp_path / "release"


@pytest.fixture
def client(start, settings, release):
    client = start(settings, worker_command=(sys.executable, str(STANDIN), "--wait", str(release)))
    wait_until(lambda: client.get("/health").status_code == 200)
    for i in range(4):
        client.post("/feedback", json={"prompt": f"House {i}?", "response": "?", "correction": f"It is {i}."})
    yield client
    release.touch()


def status(client, job_id: str) -> str:
    return client.get(f"/jobs/{job_id}").json()["status"]


def is_stepping(client, job_id: str) -> bool:
    return len(client.get(f"/jobs/{job_id}/progress").json()["progress"]) > 2


def test_job_reports_its_progress_and_publishes_a_version(client, release):
    response = client.post("/jobs", json={"profile": "default"})
    job = response.json()
    assert (response.status_code, job["status"], job["version"]) == (202, "queued", None)
    wait_until(lambda: is_stepping(client, job["id"]))
    release.touch()
    told = [block.split("\r\n") for block in client.get(f"/jobs/{job['id']}/events").text.split("\r\n\r\n") if block]
    kinds = [lines[0] for lines in told]
    assert set(kinds) == {"event: progress", "event: job"}
    last = json.loads(told[-1][1].removeprefix("data: "))
    assert (last["status"], last["version"]) == ("succeeded", "v1")
    assert client.get(f"/jobs/{job['id']}").json() == last
    assert client.get("/jobs").json()["jobs"] == [last]
    assert client.post("/generate", json={"inputs": "Hi"}).json()["details"]["adapter_version"] == "v1"


def test_job_that_runs_tells_how_far_it_is_and_what_it_waits_for(client, settings, release):
    job_id = client.post("/jobs").json()["id"]
    wait_until(lambda: is_stepping(client, job_id))
    (settings.jobs_dir / job_id / "plan.json").write_text('{"predicted_peak_bytes": 777}')
    state = client.get(f"/jobs/{job_id}").json()["state"]
    assert (state["phase"], state["steps"], state["waiting_for"]) == ("training", 5, [])
    assert state["step"] >= 2
    assert 0 <= state["seconds_left"] < 10
    assert state["predicted_peak_bytes"] == 777
    client.post(f"/jobs/{job_id}/pause")
    assert client.get("/jobs").json()["jobs"][0]["state"]["waiting_for"] == ["somebody paused it"]
    client.post(f"/jobs/{job_id}/resume")
    release.touch()
    wait_until(lambda: status(client, job_id) == "succeeded")
    assert client.get(f"/jobs/{job_id}").json()["state"] is None


def test_second_job_is_a_conflict(client):
    first = client.post("/jobs").json()["id"]
    response = client.post("/jobs", json={"profile": "alice"})
    assert response.status_code == 409
    assert first in response.json()["error"]["message"]
    assert len(client.get("/jobs").json()["jobs"]) == 1


def test_job_is_paused_resumed_and_cancelled(client):
    job_id = client.post("/jobs").json()["id"]
    wait_until(lambda: is_stepping(client, job_id))
    assert client.post(f"/jobs/{job_id}/pause").json()["status"] == "paused"
    assert client.get("/info").json()["job"] == job_id
    assert client.post(f"/jobs/{job_id}/resume").json()["status"] == "running"
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 200
    wait_until(lambda: status(client, job_id) == "cancelled")
    for verb in ("pause", "resume", "cancel"):
        response = client.post(f"/jobs/{job_id}/{verb}")
        assert response.status_code == 409
        assert "cancelled" in response.json()["error"]["message"]
        assert client.post(f"/jobs/j-none/{verb}").status_code == 404


def test_worker_stands_still_from_a_request_until_its_reply_and_a_moment_after(settings, client, daemon, engine):
    daemon.use(settings.model_copy(update={"idle": settings.idle.model_copy(update={"resume_s": 0.05})}))
    job_id = client.post("/jobs").json()["id"]
    wait_until(lambda: is_stepping(client, job_id))
    worker = daemon.worker.pid
    engine.gate.clear()
    asking = threading.Thread(target=client.post, args=("/generate",), kwargs={"json": {"inputs": "Hi"}})
    asking.start()
    wait_until(lambda: state_of(worker) == "T")
    assert status(client, job_id) == "running"  # nobody paused it
    engine.gate.set()
    asking.join()
    wait_until(lambda: state_of(worker) != "T")


def test_numbers_that_json_lacks_become_null(client, daemon):
    job = daemon.db.jobs.add("default", "manual")
    daemon.db.jobs.update(job.id, status="failed", result={"loss": float("nan"), "all": [float("inf"), 1.5]})
    assert client.get(f"/jobs/{job.id}").json()["result"] == {"loss": None, "all": [None, 1.5]}


def test_job_of_an_invalid_profile_is_refused(client):
    response = client.post("/jobs", json={"profile": "../x"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "profile"
    assert client.get("/jobs").json()["jobs"] == []


def test_feedback_that_is_deleted_while_a_job_works_with_it_is_gone_from_its_directory_once_it_has_ended(
    client, daemon, release
):
    job_id = client.post("/jobs", json={"profile": "default"}).json()["id"]
    wait_until(lambda: is_stepping(client, job_id))
    gone = client.get("/feedback").json()["feedback"][0]["id"]
    folder = daemon.settings.jobs_dir / job_id

    def kept() -> str:
        return "".join((folder / name).read_text() for name in ("train.jsonl", "heldout.jsonl"))

    assert gone in kept()
    assert client.delete(f"/feedback/{gone}").status_code < 300
    release.touch()
    wait_until(lambda: gone not in kept())
    assert kept().count("source_id") == 3


def test_a_dry_run_answers_with_the_plan_and_no_jobs_route_gives_a_feedback_id_or_a_path(tmp_path):
    """The real worker, and a job that starts from a published version."""
    model = save_tiny(tmp_path / "model")
    opened = open_model(model)
    installed = FakeModel(folder=model, reference=str(model), sha256=opened.sha256)
    training = {"steps": 4, "batch_size": 2, "threads": 1, "warmup_steps": 1, "evaluate_every": 2, "rehearsal_batch": 0}
    lenient = {"min_reply_gain": 0, "max_text_rise": 10}
    schedule, data_dir = {"enabled": False}, tmp_path / "data"
    settings = Settings(data_dir=data_dir, schedule=schedule, training=training, gate=lenient)
    save_adapter(LarsAdapter.for_model(opened.model, LarsConfig()), tmp_path / "v1", base_model="tiny", revision=None)
    store = AdapterStore(settings.adapters_dir)
    store.publish("default", tmp_path / "v1", AdapterManifest(base_model_sha256=opened.sha256))
    store.activate("default", 1)
    app = fake_app(settings, find_model=lambda: installed, open_engine=opener(settings, opened.sha256))
    with client_of(app) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.post("/jobs?dry_run=true").status_code == 409  # there is nothing to learn yet
        for i in (0, 1, 2, 3, 0):  # the first is superseded by the last
            client.post("/feedback", json={"prompt": f"House {i}?", "response": "?", "correction": f"It is {i}."})
        dry_run = client.post("/jobs?dry_run=true")
        assert client.get("/jobs").json()["jobs"] == []
        job_id = client.post("/jobs").json()["id"]
        wait_until(lambda: client.get(f"/jobs/{job_id}").json()["finished"], timeout_s=240)
        job = client.get(f"/jobs/{job_id}").json()
        ids = [item["id"] for item in client.get("/feedback").json()["feedback"]]
        row = app.state.daemon.db.jobs.get(job_id).spec
        assert ids[0] in row["seen"]  # there is something to leak
        assert row["parent"].startswith(str(data_dir))
        routes = [f"/jobs/{job_id}{end}" for end in ("", "/progress", "/events")]
        texts = [client.get(route).text for route in ("/jobs", *routes)]
    plan = dry_run.json()
    assert (dry_run.status_code, plan["error"], plan["chosen"]) == (200, None, plan["ladder"][0])
    assert plan["chosen"]["predicted_peak_bytes"] == sum(plan["chosen"]["estimate"].values())
    for text in (*texts, dry_run.text):
        assert [word for word in (*ids, str(tmp_path), '"/') if word in text] == []
    assert job["result"]["candidate"]  # the worker's own words are among them
    spec = job["spec"]
    assert (spec["train"] + spec["heldout"], spec["seen"], spec["dropped"]) == (4, 5, {"superseded": 1})
    assert (spec["active_version"], spec["parent_version"]) == ("v1", "v1")
    assert (spec["base_model"], spec["model_sha256"], spec["memory_limit"]) == ("model", opened.sha256, "guard")
    assert (spec["training"]["steps"], spec["lars"]["rank"]) == (4, settings.lars.rank)
