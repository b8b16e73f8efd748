"""The default installation after its first run: every dialect and client reaches the adapter by the default name."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from examples.persona import MARA, read_lines
from examples.running import daemon
from tests.default_model import CACHE, default_model_folder

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

CORRECTIONS, JOB_S, SHORT = 6, 500, 12
QUICK = {
    "training__steps": "3",
    "training__warmup_steps": "1",
    "training__evaluate_every": "3",
    "training__batch_size": "4",
    "training__learning_rate": "0.02",
    "curation__min_heldout": "1",
    "curation__max_heldout": "1",
    "training__rehearsal_batch": "0",
    "training__threads": "1",
    "runtime__threads": "1",
    "lars__top_layers": "10",
    "gate__min_reply_gain": "0",
    "gate__max_text_rise": "10",
    "server__model_aliases": '{"gpt-4o": "default"}',
}
PROMPT = str(read_lines(MARA / "feedback.jsonl")[0]["prompt"])  # one that has been learned
TEXT = "Once upon a time"  # to go on with
ASKED = [{"role": "user", "content": PROMPT}]
DEFAULT_NAMES = [None, "default", "default:latest", "gpt-4o"]
OPTIONS = {"temperature": 0, "num_predict": SHORT, "repeat_penalty": 1.0}
Answer = tuple[str, str | None]  # the reply's text, and the name of what replied; None where the client does not tell


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    """A daemon with the settings and the model that an installation has, whose feedback has become v1."""
    state = tmp_path_factory.mktemp("state")
    default_model_folder()
    (state / "models").symlink_to(CACHE)
    with daemon(state, **QUICK) as running:
        for item in read_lines(MARA / "feedback.jsonl")[:CORRECTIONS]:
            running.post("/feedback", item)
        job = running.post("/jobs", {"profile": "default"})
        deadline = time.monotonic() + JOB_S
        while (done := running.get(f"/jobs/{job['id']}"))["finished"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (done["status"], done["version"], done["error"]) == ("succeeded", "v1", None)
        assert running.get("/info")["model"]["reference"] == "default"
        yield str(running.http.base_url).rstrip("/")


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
