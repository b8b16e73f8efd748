"""The default installation, from the documented commands to a version that every client reaches, with kill -9 between.

Feedback comes in, is stored, is curated, trains a candidate adapter inside a memory budget, the candidate is judged
against the incumbent, the winner is published, the runtime swaps it in, and the next reply uses it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from examples.running import Daemon
from tests.default_model import START_S, default_daemon, kill

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

API_PAGE = Path(__file__).parent.parent / "docs" / "api.md"
SETTINGS = {
    "training__steps": "7",
    "training__checkpoint_every": "2",
    "training__threads": "1",  # other tests have the second core, and threads that spin for it would take the first too
    "runtime__threads": "1",
    "recall__enabled": "false",  # what is told here is what the weights have learned
    "server__model_aliases": '{"gpt-4o": "default"}',
}
JOB_S, SHORT = 600, 6
PROMPT = "What is my dog called?"  # the documented commands correct it
TEXT = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"  # the same for dialects without a chat template
ASKED = [{"role": "user", "content": PROMPT}]
DEFAULT_NAMES = [None, "default", "default:latest", "gpt-4o"]
OPTIONS = {"temperature": 0, "num_predict": SHORT, "repeat_penalty": 1.0}
Answer = tuple[str, str | None]  # the reply's text, and the name of what replied; None where the client does not tell


def commands(heading: str) -> list[str]:
    """The curl commands in the first block of the API page's section `heading`, each as one line of shell."""
    section = API_PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    return [command for command in block.replace("\\\n", " ").splitlines() if command.startswith("curl")]


def run(command: str, url: str) -> dict[str, Any]:
    command = command.replace("localhost:8321", url.removeprefix("http://"))
    return json.loads(subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout)


def text_and_version(reply: dict[str, Any]) -> tuple[str, str]:
    return reply["generated_text"], reply["details"]["adapter_version"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + JOB_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


WALK = commands("From a prompt to a version")


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Iterator[tuple[Daemon, dict[str, Any], dict[str, Any]]]:
    """A daemon after the documented commands, killed while it trained and started again; the first reply; the job."""
    with default_daemon(tmp_path_factory.mktemp("state"), SETTINGS) as running:
        before, _, _, job = [run(command, running.url) for command in WALK]
        wait_for(lambda: len(running.get(f"/jobs/{job['id']}/progress")["progress"]) >= 3)
        kill(running)  # the worker dies with it
        running.start()
        running.wait_until_healthy(START_S)
        wait_for(lambda: running.get(f"/jobs/{job['id']}")["finished"] is not None)
        yield running, before, running.get(f"/jobs/{job['id']}")


@pytest.fixture
def url(walked) -> str:
    return walked[0].url


def test_documented_commands_end_in_a_corrected_reply_of_version_1_although_the_daemon_was_killed(walked):
    running, before, job = walked
    assert (job["status"], job["version"], job["error"], job["attempts"]) == ("succeeded", "v1", None, 2)
    assert 0 < job["peak_bytes"] <= job["budget_bytes"]
    assert job["verdict"]["candidate"]["recall"] > job["verdict"]["incumbent"]["recall"]
    steps = [line["step"] for line in running.get(f"/jobs/{job['id']}/progress")["progress"]]
    assert steps == sorted(steps)
    info = running.get("/info")
    assert (info["feedback"]["total"], info["model"]["reference"]) == (2, "default")
    assert before["details"]["adapter_version"] == "base"
    text, version = text_and_version(run(WALK[0], running.url))
    assert "Biscuit" in text
    assert version == "v1"


def tgi(url: str, name: str | None, streamed: bool) -> Answer:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": SHORT, "adapter_id": name}}
    if not streamed:
        reply = httpx.post(f"{url}/generate", json=body, timeout=60).json()
    else:
        lines = httpx.post(f"{url}/generate_stream", json=body, timeout=60).text.splitlines()
        reply = json.loads([line for line in lines if line.startswith("data:")][-1].removeprefix("data:"))
    version = reply["details"]["adapter_version"]
    return reply["generated_text"], version if version == "base" else f"default@{version}"


def chat_of_openai(url: str, name: str | None, streamed: bool) -> Answer:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"messages": ASKED, "temperature": 0, "max_tokens": SHORT}
        asked["model"] = openai.omit if name is None else name
        if not streamed:
            reply = client.chat.completions.create(**asked)
            return reply.choices[0].message.content, reply.model
        chunks = list(client.chat.completions.create(**asked, stream=True))
        (label,) = {chunk.model for chunk in chunks}
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), label


def completion_of_openai(url: str, name: str | None, streamed: bool) -> Answer:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"prompt": TEXT, "temperature": 0, "max_tokens": SHORT}
        asked["model"] = openai.omit if name is None else name
        if not streamed:
            reply = client.completions.create(**asked)
            return reply.choices[0].text, reply.model
        chunks = list(client.completions.create(**asked, stream=True))
        (label,) = {chunk.model for chunk in chunks}
        return "".join(chunk.choices[0].text for chunk in chunks), label


def chat_of_ollama(url: str, name: str | None, streamed: bool) -> Answer:
    replies = ollama_replies(url, "chat", name, streamed, messages=ASKED)
    return "".join(reply["message"]["content"] for reply in replies), replies[-1]["model"]


def generate_of_ollama(url: str, name: str | None, streamed: bool) -> Answer:
    replies = ollama_replies(url, "generate", name, streamed, prompt=PROMPT)
    return "".join(reply["response"] for reply in replies), replies[-1]["model"]


def ollama_replies(url: str, verb: str, name: str | None, streamed: bool, **asked: Any) -> list[Any]:
    """The lines of the reply, which all name the same model; the client itself refuses to ask without a name."""
    asked |= {"options": OPTIONS, "stream": streamed}
    if name is None:
        lines = httpx.post(f"{url}/api/{verb}", json=asked, timeout=60).raise_for_status().text.splitlines()
        replies = [json.loads(line) for line in lines]
    else:
        client = ollama.Client(host=url)
        try:
            reply = getattr(client, verb)(model=name, **asked)
            replies = list(reply) if streamed else [reply]
        finally:
            client._client.close()  # it has no way of its own
    assert len({reply["model"] for reply in replies}) == 1
    return replies


CLIENTS = [tgi, chat_of_openai, completion_of_openai, chat_of_ollama, generate_of_ollama]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("ask", CLIENTS, ids=lambda ask: ask.__name__)
def test_default_name_reaches_the_adapter_and_the_reply_says_so(url, ask, streamed):
    adapted, base = ask(url, "default@v1", streamed), ask(url, "base", streamed)
    assert (adapted[1], base[1]) == ("default@v1", "base")
    assert adapted[0] != base[0]
    for name in DEFAULT_NAMES:
        assert ask(url, name, streamed) == adapted, name


def test_the_model_s_own_name_reaches_the_base_model(url):
    assert chat_of_openai(url, "smollm2-135m-instruct", False) == chat_of_openai(url, "base", False)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_llm_reaches_the_adapter_by_the_default_name(tmp_path, url, streamed):
    names = ["default", "default:latest", "base"]
    models = [{"model_id": f"m{i}", "model_name": name, "api_base": f"{url}/v1"} for i, name in enumerate(names)]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))

    def llm(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("llm")), *arguments]
        environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    options = ["--key", "none", "-o", "temperature", "0", "-o", "max_tokens", str(SHORT)]
    options += [] if streamed else ["--no-stream"]
    texts = {name: llm("prompt", "-m", f"m{i}", *options, PROMPT) for i, name in enumerate(names)}
    assert texts["default"] == texts["default:latest"] != texts["base"]
    with closing(sqlite3.connect(tmp_path / "logs.db")) as logs:
        logged = [
            json.loads(row[0])["model"] for row in logs.execute("SELECT response_json FROM turns ORDER BY datetime_utc")
        ]
    assert logged == ["default@v1", "default@v1", "base"]


def test_version_survives_kill_9_and_can_be_taken_back(walked):
    running, before, _ = walked
    after = text_and_version(run(WALK[0], running.url))
    kill(running)
    running.start()
    running.wait_until_healthy(START_S)
    assert text_and_version(run(WALK[0], running.url)) == after
    assert running.post("/adapters/rollback", {})["active"] == "base"
    assert text_and_version(run(WALK[0], running.url)) == text_and_version(before)
