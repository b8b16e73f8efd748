"""The daemon as a process of its own: killed, disconnected, stopped during a stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.db import Database
from service.settings.load import Settings
from tests.service.api.conftest import fake_app, wait_until

REPOSITORY = Path(__file__).parents[3]
TRIES = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def child(data_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A daemon that answers, and a client of it; killed at the end, if it still runs."""
    port = free_port()
    command = [sys.executable, "-m", "tests.service.api.child", str(data_dir), str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until(lambda: is_up(client), timeout_s=120)
            yield process, client
    finally:
        process.kill()
        process.wait()


def test_every_acknowledged_write_survives_kill_9(tmp_path):
    """Four writers; the daemon is killed in the middle of it. What was acknowledged is there, whole, and no more."""
    acknowledged: list[dict] = []
    with child(tmp_path) as (process, client):
        reply = client.post("/generate", json={"inputs": "Hi"}).json()
        first = client.post("/feedback", json={"interaction_id": reply["interaction_id"], "rating": "up"}).json()
        writers = [threading.Thread(target=write_until_dead, args=(client, n, acknowledged)) for n in range(TRIES)]
        for writer in writers:
            writer.start()
        wait_until(lambda: len(acknowledged) >= 40)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for writer in writers:
            writer.join()
    db = Database(tmp_path / "lars-agent.db")
    assert db.interactions.get(reply["interaction_id"]).response == "echo: Hi"
    assert db.feedback.get(first["id"]).rating == 1.0
    for given in acknowledged:
        assert db.feedback.get(given["id"]).correction == given["correction"]
    stored = db.feedback.counts()["total"]
    assert len(acknowledged) + 1 <= stored <= len(acknowledged) + 1 + TRIES  # in flight when it was killed
    db.close()


def write_until_dead(client: httpx.Client, writer: int, acknowledged: list[dict]) -> None:
    for n in range(100_000):
        body = {"prompt": "Hi", "response": "Yo", "correction": f"{writer}-{n} " + "é" * 500}
        try:
            response = client.post("/feedback", json=body)
        except httpx.TransportError:
            return
        assert response.status_code == 201
        acknowledged.append(response.json())


def test_daemon_stops_during_a_stream(tmp_path):
    """A client that watches a job for ever does not keep the daemon from stopping."""
    with child(tmp_path) as (process, client):
        db = Database(tmp_path / "lars-agent.db")
        job = db.jobs.add("default", "manual")
        db.close()
        with client.stream("GET", f"/jobs/{job.id}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: job"
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: process.poll() is not None, timeout_s=30)
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[int, object]]:
    """A real server in this process: its port and its fake engine, whose replies hang."""
    app = fake_app(Settings(data_dir=tmp_path / "data", schedule={"enabled": False}))
    port = free_port()
    runner = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=runner.run)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        wait_until(lambda: is_up(client))
    with app.state.daemon.model_host.engine() as engine:
        engine.gate.clear()
    yield port, engine
    engine.gate.set()
    runner.should_exit = True
    thread.join()


HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "Hi"}),
        ("/generate_stream", {"inputs": "Hi"}),
        ("/v1/chat/completions", HELLO | {"stream": True}),
        ("/api/chat", HELLO),
    ],
)
def test_reply_is_cancelled_when_its_client_disconnects(server, path, body):
    port, engine = server
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(raw_post(port, path, json.dumps(body).encode()))
        wait_until(lambda: len(engine.tickets) == 1)
    wait_until(lambda: engine.tickets[0].cancelled)


@pytest.mark.parametrize("announced", [True, False])
def test_client_receives_the_error_for_a_body_that_is_too_large(server, announced):
    port, engine = server
    body = json.dumps({"inputs": "x" * 2_000_000}).encode()
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    response = httpx.post(
        f"http://127.0.0.1:{port}/generate",
        content=body if announced else pieces,
        headers={"content-type": "application/json"},
    )
    assert (response.status_code, response.json()["error"]["code"]) == (413, 413)
    assert engine.tickets == []


def raw_post(port: int, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
