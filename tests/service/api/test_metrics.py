"""Metrics as Prometheus reads them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lars_agent.errors import AdapterCorrupt, GenerationError
from service.alarms import Alarm
from service.db.records import now_utc
from service.serving.request_metrics import dialect_of
from service.settings.load import Settings
from tests.service.api.conftest import wait_until

SECRETS = ("margarethe", "Where do I live?", "Elm Street 7", "f-", "/tmp")
UNITS = ("bytes", "seconds")
FORBIDDEN = re.compile("milliseconds|_ms$|kilobytes|megabytes|_mib|percent|minutes|hours")


@dataclass
class Scrape:
    """The samples of one scrape, and the type of each family."""

    samples: dict[str, float] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)


def scrape(client) -> Scrape:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = Scrape()
    for family in text_string_to_metric_families(response.text):
        found.types[family.name] = family.type
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.samples[f"{sample.name}{{{labels}}}".removesuffix("{}").removeprefix("lars_agent_")] = sample.value
            found.labels |= sample.labels.keys()
    return found


@pytest.fixture
def job(daemon) -> None:
    """A job that has measured everything."""
    record = daemon.db.jobs.add("default", "manual")
    pauses = {"heat": {"count": 2, "seconds": 61.5}}
    changes = {"started": now_utc(), "budget_bytes": 2_000, "peak_bytes": 1_500, "pauses": pauses}
    daemon.db.jobs.update(record.id, status="failed", **changes)


def test_names_and_types_obey_the_rules_of_prometheus(client, job):
    client.post("/generate", json={"inputs": "Hi"})
    found = scrape(client)
    assert len(found.types) > 20
    for name, kind in found.types.items():
        exposed = f"{name}_total" if kind == "counter" else name
        assert re.fullmatch(r"lars_agent(_[a-z][a-z0-9]*)+", exposed)
        assert not FORBIDDEN.search(exposed)
        assert exposed.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(count|sum|bucket|created)$", exposed)
        assert [unit for unit in UNITS if unit in exposed.split("_")] in (
            [],
            [exposed.removesuffix("_total").split("_")[-1]],
        )
        assert kind in {"counter", "gauge", "histogram"}
    assert found.labels <= {"code", "dialect", "kind", "le", "outcome", "process", "reason", "status", "version"}


def test_counters_go_up_with_replies_of_every_dialect(client):
    before = scrape(client).samples
    said = {"messages": [{"role": "user", "content": "Hi"}]}
    client.post("/generate", json={"inputs": "Hi"})
    client.post("/generate_stream", json={"inputs": "Hi"})
    client.post("/v1/chat/completions", json={"model": "base", **said})
    client.post("/api/chat", json={"model": "base", **said})
    client.post("/v1/messages", json={"max_tokens": 5, **said})
    client.post("/generate", json={"inputs": ""})
    after = scrape(client).samples

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("http_requests_total{dialect=tgi,status=200}") == 2
    assert grown("http_requests_total{dialect=tgi,status=422}") == 1
    assert grown("http_requests_total{dialect=openai,status=200}") == 1
    assert grown("http_requests_total{dialect=ollama,status=200}") == 1
    assert grown("http_requests_total{dialect=anthropic,status=200}") == 1
    assert grown("http_requests_total{dialect=lars,status=200}") >= 1
    assert grown("replies_total{outcome=eos_token}") == 5
    assert grown("tokens_total{kind=generated}") == 10
    assert grown("reply_seconds_count") == grown("time_to_first_token_seconds_count") == 5
    assert grown("interaction_rows") == 5


def test_reply_that_breaks_off_is_counted_as_failed(client, engine):
    engine.break_reply = GenerationError("it broke")
    client.post("/generate", json={"inputs": "Hi"})
    client.post("/generate_stream", json={"inputs": "Hi"})
    samples = scrape(client).samples
    assert samples["replies_total{outcome=failed}"] == 2
    assert samples["http_requests_total{dialect=tgi,status=503}"] == 1


def test_feedback_is_counted_without_personal_data(client, daemon):
    before = scrape(client).samples
    body = {"prompt": SECRETS[1], "response": "?", "correction": SECRETS[2], "profile": SECRETS[0], "tags": ["elm"]}
    client.post("/feedback", json=body)
    client.post("/feedback", json={"prompt": "Hi", "response": "Yo", "rating": "up"})
    daemon.model_host.problems.append(Alarm("adapter_fallback", f"{SECRETS[0]} now uses v1", SECRETS[0]))
    client.get(f"/adapters?profile={SECRETS[0]}")
    text, after = client.get("/metrics").text, scrape(client).samples
    assert [secret for secret in (*SECRETS, str(daemon.settings.data_dir)) if secret in text] == []
    assert after["feedback_rows"] - before["feedback_rows"] == 2
    assert after["feedback_rows_by_kind{kind=corrections}"] == after["feedback_rows_by_kind{kind=liked}"] == 1
    assert (before["alarm_active{code=adapter_fallback}"], after["alarm_active{code=adapter_fallback}"]) == (0, 1)


def test_state_of_daemon_and_last_job(client, job):
    samples = scrape(client).samples
    assert [name for name in samples if name.startswith("build_info{version=")]
    assert samples["uptime_seconds"] > 0
    assert (samples["model_installed"], samples["model_loaded"], samples["job_running"]) == (1, 1, 0)
    assert (samples["jobs{status=failed}"], samples["jobs{status=running}"]) == (1, 0)
    assert (samples["last_job_budget_bytes"], samples["last_job_peak_bytes"]) == (2_000, 1_500)
    assert samples["last_job_paused_seconds{reason=heat}"] == 61.5
    assert samples["resident_bytes{process=daemon}"] > 2**20
    assert samples["state_bytes{kind=database}"] > 0


def test_swaps_are_counted_and_refused_ones_are_not(client, engine):
    assert scrape(client).samples["adapter_swaps_total"] == 0
    client.post("/adapters/base/activate")
    engine.refuse_swap = AdapterCorrupt("no")
    client.post("/adapters/base/activate")
    assert scrape(client).samples["adapter_swaps_total"] == 1


def test_metrics_need_the_token_and_the_host_and_refused_requests_are_counted(start, tmp_path):
    settings = Settings(data_dir=tmp_path / "data", schedule={"enabled": False}, server={"token": "s" * 32})
    client = start(settings)
    wait_until(lambda: client.get("/health").status_code == 200)
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Host": "elsewhere.example"}).status_code == 403
    client.headers["Authorization"] = f"Bearer {'s' * 32}"
    samples = scrape(client).samples
    assert samples["http_requests_total{dialect=lars,status=401}"] == 1
    assert samples["http_requests_total{dialect=lars,status=403}"] == 1


def test_applications_count_for_themselves(start, tmp_path):
    clients = [start(Settings(data_dir=tmp_path / name, schedule={"enabled": False})) for name in "ab"]
    for client in clients:
        wait_until(lambda client=client: client.get("/health").status_code == 200)
    clients[0].post("/generate", json={"inputs": "Hi"})
    name = "replies_total{outcome=eos_token}"
    assert scrape(clients[0]).samples[name] == 1
    assert name not in scrape(clients[1]).samples


def test_metrics_are_answered_while_the_model_loads(start, settings):
    def none_yet():
        raise GenerationError("no model")

    samples = scrape(start(settings, find_model=none_yet)).samples
    assert (samples["model_installed"], samples["model_loaded"]) == (0, 0)


def test_openapi_documents_them_as_text(client):
    answer = client.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]["200"]
    assert set(answer["content"]) == {"text/plain"}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/generate_stream", "tgi"),
        ("/v1/models", "openai"),
        ("/api/tags", "ollama"),
        ("/x" * 999, "lars"),
        ("/", "lars"),
    ],
)
def test_every_path_has_one_of_four_dialects(path, dialect):
    assert dialect_of(path) == dialect


def test_metrics_need_no_torch():
    code = "import sys, service.api.operation, service.api.daemon_metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
