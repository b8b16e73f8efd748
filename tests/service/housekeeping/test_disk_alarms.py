"""A real daemon whose data lie on a real file system that is full, or mounted read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.settings.load import Settings
from tests.service.api import conftest as api

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")

SAID = {"prompt": "What is my goat called?", "response": "x", "correction": "Pip."}


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def running(folder: Path) -> Iterator[TestClient]:
    settings = Settings(data_dir=folder, schedule={"enabled": False})
    with api.client_of(api.fake_app(settings)) as client:
        api.wait_until(lambda: client.get("/health").status_code == 200)
        yield client


def refusal(response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["message"]


def test_a_full_disk_is_said_while_it_is_full(tmp_path):
    with mounted(tmp_path / "data", "-t", "tmpfs", "-o", "size=40m", "tmpfs"), running(tmp_path / "data") as client:
        assert client.get("/info").json()["problems"] == []
        filler = tmp_path / "data" / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(64 * 2**20))
        (problem,) = client.get("/info").json()["problems"]
        assert "is full (0 MiB are free); corrections cannot be stored" in problem
        assert client.get("/health").json() == {"status": "degraded", "alarms": ["disk_full"]}
        code, words = refusal(client.post("/feedback", json=SAID | {"response": "x" * 500_000}))
        assert (code, "free some space" in words) == (507, True)
        filler.unlink()
        assert client.get("/info").json()["problems"] == []
        assert client.post("/feedback", json=SAID).status_code == 201


def test_a_folder_that_cannot_be_written_to_is_said_and_replies_go_on(tmp_path):
    folder = tmp_path / "data"
    with running(folder) as client:
        with mounted(folder, "--bind", str(folder)):
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
            client.app.state.daemon.db.engine.dispose()  # a connection that is open may write on
            (problem,) = client.get("/info").json()["problems"]
            assert f"{folder} cannot be written to; nothing is stored or learned until that is mended" in problem
            code, words = refusal(client.post("/feedback", json=SAID))
            assert (code, "not mounted read-only" in words) == (500, True)
            code, words = refusal(client.patch("/settings", json={"idle.on_battery": True}))
            assert (code, "not mounted read-only" in words) == (422, True)
            reply = client.post("/generate", json={"inputs": "Hello"}).json()
            assert (reply["generated_text"], reply["interaction_id"]) == ("echo: Hello", None)
            assert client.get("/health").json()["alarms"] == ["not_recording", "read_only"]
            client.app.state.daemon.db.engine.dispose()
        assert client.post("/feedback", json=SAID).status_code == 201
        assert client.patch("/settings", json={"idle.on_battery": True}).status_code == 200
