"""The daemon's process and its signals: stop, reload, and safe mode after repeated kills."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from service.db import Database
from tests.service.house import REPOSITORY, state_of, until

START_S = END_S = 120.0
CLEAN = (0, -signal.SIGTERM)  # uvicorn raises the signal again when all is closed


@dataclass
class Place:
    """A folder with settings and data, and the processes that were started on it."""

    folder: Path
    heard: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def go(self) -> Path:
        return self.folder / "go"

    def configure(self, *lines: str) -> None:
        """The configuration file holds `lines`, under what every one of these daemons needs."""
        needed = [f"data_dir = '{self.data}'", "[server]", "port = 0", *lines]
        (self.folder / "config.toml").write_text("\n".join(needed) + "\n")

    @contextmanager
    def daemon(
        self, *flags: str, ready: bool = True, **options
    ) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
        """A daemon that listens, and a client of it; killed at the end, if it still runs."""
        command = [sys.executable, "-m", "tests.service.server_child", str(self.folder / "config.toml"), str(self.go)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NOTIFY_SOCKET": str(self.folder / "notify")}
        with subprocess.Popen(
            [*command, *flags],
            **{"cwd": REPOSITORY, "env": environment, "stdout": subprocess.PIPE, "text": True} | options,
        ) as process:
            try:
                url = next(found[1] for line in process.stdout if (found := re.search(r"dashboard: (http\S+)", line)))
                threading.Thread(target=process.stdout.read, daemon=True).start()
                with httpx.Client(base_url=url, timeout=60) as client:
                    until(lambda: client.get("/health").status_code == 200, "the model", START_S)
                    yield process, client
            finally:
                process.kill()

    def hear(self, end: socket.socket) -> None:
        """Keeps what systemd is told."""
        while told := end.recv(4096):  # nothing: the end was shut
            self.heard += told.decode().splitlines()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.configure()
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.bind(str(tmp_path / "notify"))
    thread = threading.Thread(target=place.hear, args=(end,), daemon=True)
    thread.start()
    yield place
    end.shutdown(socket.SHUT_RDWR)
    thread.join()
    end.close()


def terminate(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_S) in CLEAN


def corrected(client: httpx.Client) -> None:
    for i in range(4):
        body = {"prompt": f"House {i}?", "response": "?", "correction": f"It is {i}."}
        assert client.post("/feedback", json=body).status_code == 201


class Asking(threading.Thread):
    """Somebody who asks, and waits for the reply."""

    def __init__(self, place: Place, client: httpx.Client, path: str) -> None:
        super().__init__(daemon=True)
        self.client, self.path, self.answer = client, path, None
        self.start()
        until((place.folder / "asked").exists, "it has asked")

    def run(self) -> None:
        self.answer = self.client.post(self.path, json={"inputs": "Hi"})


def test_start_and_stop_are_reported_to_systemd(place):
    with place.daemon() as (process, _):
        until(lambda: any(line.startswith("STATUS=ready") for line in place.heard), "its status", START_S)
        terminate(process)
    assert [line for line in place.heard if "STATUS" not in line] == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_shutdown_waits_for_a_running_reply(place, path):
    with place.daemon() as (process, client):
        asking = Asking(place, client, path)
        process.send_signal(signal.SIGTERM)
        until(lambda: "STOPPING=1" in place.heard, "the end begins", END_S)
        place.go.touch()
        assert process.wait(END_S) in CLEAN
        asking.join()
    assert "echo: Hi" in asking.answer.text
    db = Database(place.data / "lars-agent.db")
    assert db.interactions.count() == 1
    db.close()


@pytest.mark.parametrize(("path", "status"), [("/generate", 503), ("/generate_stream", 200)])
def test_shutdown_cancels_a_slow_reply_with_an_error_to_its_client(place, path, status):
    with place.daemon() as (process, client):
        asking = Asking(place, client, path)
        terminate(process)
        asking.join()
    assert asking.answer.status_code == status
    assert "the request was cancelled" in asking.answer.text


def test_worker_ends_at_sigterm_and_its_job_continues_at_the_next_start(place):
    place.go.touch()
    with place.daemon("--wait", str(place.folder / "learned")) as (process, client):
        corrected(client)
        job = client.post("/jobs").json()["id"]
        until(lambda: len(client.get(f"/jobs/{job}/progress").json()["progress"]) > 2, "a step", START_S)
        worker = client.get(f"/jobs/{job}/progress").json()["progress"][-1]["pid"]
        terminate(process)
        assert state_of(worker) in "XZ"
    (place.folder / "learned").touch()
    with place.daemon() as (process, client):
        until(lambda: client.get(f"/jobs/{job}").json()["status"] == "succeeded", "the end of the job", START_S)
        assert client.get(f"/jobs/{job}").json()["attempts"] == 1
        terminate(process)


def test_sighup_reloads_the_settings(place):
    with place.daemon() as (process, client):
        place.configure("max_body_bytes = 5000", "[schedule]", "enabled = true", 'cron = "0 4 * * *"')
        process.send_signal(signal.SIGHUP)
        until(lambda: place.heard.count("READY=1") == 2, "the settings are read", START_S)
        info = client.get("/info").json()
        assert info["schedule"]["cron"] == "0 4 * * *"
        assert info["notices"] == ["takes effect at the next start: server.max_body_bytes"]
        assert client.get("/health").json() == {"status": "ok"}
        place.configure("colour = 'blue'")
        process.send_signal(signal.SIGHUP)
        until(lambda: place.heard.count("READY=1") == 3, "the settings are read", START_S)
        info = client.get("/info").json()
        assert info["schedule"]["cron"] == "0 4 * * *"
        assert "unknown setting 'server.colour'" in info["notices"][0]
        terminate(process)
    told = [line.split("=")[0] for line in place.heard if "STATUS" not in line]
    assert told == ["READY", *["RELOADING", "MONOTONIC_USEC", "READY"] * 2, "STOPPING"]


def test_closing_the_terminal_ends_the_daemon(place):
    ours, theirs = pty.openpty()
    with place.daemon(stdin=theirs) as (process, _):
        os.close(theirs)
        process.send_signal(signal.SIGHUP)
        until(lambda: place.heard.count("READY=1") == 2, "the settings are read", START_S)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(END_S) == 0


def test_three_killed_starts_lead_to_safe_mode_and_a_clean_stop_of_it_to_a_normal_start(place):
    for _ in range(3):
        with place.daemon() as (_, client):
            assert client.get("/health").json() == {"status": "ok"}
    with place.daemon() as (process, client):
        assert client.get("/health").json() == {"status": "degraded", "alarms": ["safe_mode"]}
        assert client.post("/jobs").status_code == 409
        assert client.get("/").status_code == 200
        terminate(process)
    with place.daemon() as (process, client):
        assert client.get("/health").json() == {"status": "ok"}
        terminate(process)
