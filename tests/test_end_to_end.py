"""The architecture's one sentence on the real default model, through a daemon that is killed in between.

Feedback comes in, is stored, is curated, trains a candidate adapter inside a memory budget, the candidate is judged
against the incumbent, the winner is published, the runtime swaps it in, and the next reply uses it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.persona import MARA, OPENING, read_lines
from examples.running import Daemon
from tests.default_model import default_model_folder

CORRECTIONS = 24
PROMPT = "Which side of the road do they drive on in Malta?"  # nothing in the feedback is about it: the style is all
SETTINGS = {
    "training__steps": "14",
    "training__warmup_steps": "3",
    "training__evaluate_every": "7",
    "training__checkpoint_every": "2",
}
API_PAGE = Path(__file__).parent.parent / "docs" / "api.md"
START_S, JOB_S = 120.0, 280.0


@contextmanager
def daemon(state: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A daemon on `state` that is ready to reply, and a client of it; killed at the end, if it still runs."""
    running = Daemon(state, settings | {"model__name": str(default_model_folder())})
    running.start(HOME=str(state))
    assert running.process is not None
    try:
        running.wait_until_healthy(START_S)
        with running.http:
            yield running.process, running.http
    finally:
        running.process.kill()
        running.process.wait()


def commands(heading: str) -> list[str]:
    """The curl commands in the first block of the API page's section `heading`, each as one line of shell."""
    section = API_PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    return [command for command in block.replace("\\\n", " ").splitlines() if command.startswith("curl")]


def wait_for(condition: Any, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def reply(client: httpx.Client) -> tuple[str, str]:
    """The greedy reply's text and the version it came from."""
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 16}}
    answer = client.post("/generate", json=body).raise_for_status().json()
    return answer["generated_text"], answer["details"]["adapter_version"]


@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_feedback_becomes_a_version_that_survives_kill_9_and_can_be_taken_back(tmp_path):
    with daemon(tmp_path, **SETTINGS) as (process, client):
        before = reply(client)
        assert before[1] == "base"
        for item in read_lines(MARA / "feedback.jsonl")[:CORRECTIONS]:
            client.post("/feedback", json=item).raise_for_status()
        job = client.post("/jobs", json={"profile": "default"}).raise_for_status().json()
        wait_for(lambda: len(client.get(f"/jobs/{job['id']}/progress").json()["progress"]) >= 4, JOB_S)
        process.send_signal(signal.SIGKILL)  # in the middle of training: the worker dies with it
        process.wait()

    with daemon(tmp_path, **SETTINGS) as (process, client):
        assert client.get("/info").json()["feedback"]["total"] == CORRECTIONS
        wait_for(lambda: client.get(f"/jobs/{job['id']}").json()["finished"], JOB_S)
        done = client.get(f"/jobs/{job['id']}").json()
        assert (done["status"], done["error"], done["version"]) == ("succeeded", None, "v1")
        assert done["attempts"] == 2
        assert 0 < done["peak_bytes"] <= done["budget_bytes"]
        assert done["verdict"]["candidate"]["recall"] > done["verdict"]["incumbent"]["recall"]
        steps = [line["step"] for line in client.get(f"/jobs/{job['id']}/progress").json()["progress"]]
        assert steps == sorted(steps)
        after = reply(client)
        assert after[1] == "v1"
        assert after[0].startswith(OPENING)
        process.send_signal(signal.SIGKILL)
        process.wait()

    with daemon(tmp_path, **SETTINGS) as (_, client):
        assert reply(client) == after
        assert client.post("/adapters/rollback").json()["active"] == "base"
        assert reply(client) == before


@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_the_documented_commands_end_in_a_reply_from_version_1(tmp_path):
    walk = commands("From a prompt to a version")
    assert len(walk) == 4
    with daemon(tmp_path) as (_, client):

        def run(command: str) -> dict[str, Any]:
            command = command.replace("localhost:8321", f"127.0.0.1:{client.base_url.port}")
            return json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)

        before, _, _, job = [run(command) for command in walk]
        assert before["details"]["adapter_version"] == "base"
        wait_for(lambda: client.get(f"/jobs/{job['id']}").json()["finished"], JOB_S)
        assert client.get(f"/jobs/{job['id']}").json()["error"] is None
        after = run(walk[0])
        assert after["details"]["adapter_version"] == "v1"
        assert "Biscuit" in after["generated_text"]
