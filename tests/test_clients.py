"""The clients that people already have, as they are on PyPI, against a real daemon with the real default model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import httpx
import huggingface_hub
import ollama
import openai
import pytest

from examples.running import daemon
from lars_agent.models.open import open_model
from lars_agent.store.adapters import AdapterStore
from tests.default_model import default_model_folder
from tests.runtime.conftest import publish
from tests.service.api.conftest import wait_until

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

ASKED = [{"role": "user", "content": "What is the capital of France?"}]
SHORT = 12


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    state, model = tmp_path_factory.mktemp("state"), default_model_folder()
    publish(AdapterStore(state / "adapters"), open_model(model), state, 1, "alice")
    AdapterStore(state / "adapters").activate("alice", 1)
    with daemon(state, model__name=str(model), runtime__threads="1") as found:
        yield found


@pytest.fixture(scope="module")
def url(running) -> str:
    return str(running.http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def gpt(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def lama(url):
    client = ollama.Client(host=url)
    yield client
    client._client.close()  # it has no way of its own


def test_openai_chats_and_the_reply_can_be_corrected(gpt, running):
    reply = gpt.chat.completions.create(model="default", messages=ASKED, temperature=0, max_tokens=SHORT)
    (choice,) = reply.choices
    assert "Paris" in choice.message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert running.post("/feedback", {"interaction_id": reply.id, "rating": "up"})["id"]
    same, other = (
        gpt.chat.completions.create(model=name, messages=ASKED, temperature=0, max_tokens=SHORT).choices[0]
        for name in ("base", "alice@v1")
    )
    assert same.message.content == choice.message.content != other.message.content


def test_openai_streams_the_same_with_usage_and_probabilities(gpt):
    asked = {"model": "default", "messages": ASKED, "temperature": 0.7, "seed": 3, "max_tokens": SHORT}
    whole = gpt.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    chunks = list(gpt.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    content = whole.choices[0].logprobs.content
    assert "".join(token.token for token in content).strip() == text.strip()
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in content)


def test_openai_completes_text_and_lists_models(gpt):
    reply = gpt.completions.create(model="base", prompt="One, two, three,", temperature=0, max_tokens=8, stop=["six"])
    assert reply.choices[0].text.startswith(" four")
    assert "six" not in reply.choices[0].text
    assert {model.id for model in gpt.models.list()} == {"base", "default", "alice", "alice@v1"}
    assert gpt.models.retrieve("alice@v1").root


def test_openai_responds_streams_and_goes_on_from_what_is_stored(gpt, running):
    asked = {"model": "default", "input": ASKED[0]["content"], "temperature": 0, "max_output_tokens": SHORT}
    first = gpt.responses.create(**asked)
    assert "Paris" in first.output_text
    assert running.post("/feedback", {"interaction_id": first.id, "rating": "up"})["id"]
    events = list(gpt.responses.create(**asked, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == first.output_text
    assert events[-1].response.usage == first.usage.model_copy(update={"input_tokens_details": ANY})
    with gpt.responses.stream(**asked | {"max_output_tokens": 60}, instructions="Be brief.") as stream:
        final = stream.get_final_response()
    assert (final.status, final.instructions) == ("completed", "Be brief.")
    second = gpt.responses.create(**asked | {"input": "And of Italy?"}, previous_response_id=first.id, store=False)
    assert "Rome" in second.output_text
    said = [*ASKED, *first.output, {"role": "user", "content": "And of Italy?"}]
    same = gpt.responses.create(**asked | {"input": said})
    assert same.output_text == second.output_text
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(second.id)
    assert gpt.responses.retrieve(first.id).output == first.output
    gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as refused:
        gpt.responses.create(**asked, previous_response_id=first.id)
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        gpt.responses.create(**asked, text={"format": {"type": "json_object"}})
    assert refused.value.param == "text.format"


def test_openai_s_own_message_is_sent_back_and_each_choice_can_be_rated(gpt, running):
    asked = {"model": "default", "max_tokens": SHORT, "seed": 3}
    first = gpt.chat.completions.create(messages=ASKED, n=2, **asked)
    for choice in first.choices:
        assert running.post("/feedback", {"interaction_id": choice.lars["interaction_id"], "rating": "up"})["id"]
        again = [*ASKED, choice.message, {"role": "user", "content": "And of Italy?"}]
        assert gpt.chat.completions.create(messages=again, **asked).choices[0].message.content
    begun = [*ASKED, {"role": "assistant", "content": "The capital of France is"}]
    reply = gpt.chat.completions.create(messages=begun, model="base", max_tokens=SHORT, temperature=0)
    assert "Paris" in reply.choices[0].message.content


def test_openai_scores_the_choices_of_a_question_as_lm_eval_does(gpt):
    choices = [" Paris", " a green banana"]
    prompts = [f"Question: {ASKED[0]['content']}\nAnswer:{choice}" for choice in choices]
    reply = gpt.completions.create(model="base", prompt=prompts, echo=True, max_tokens=1, logprobs=1, temperature=0)
    scores = []
    for prompt, answer, choice in zip(prompts, choices, reply.choices, strict=True):
        found = choice.logprobs
        assert (choice.text[: len(prompt)], found.token_logprobs[0]) == (prompt, None)
        start = next(at for at, offset in enumerate(found.text_offset) if offset >= len(prompt) - len(answer))
        assert "".join(found.tokens[start:-1]) == answer
        scores.append(sum(found.token_logprobs[start:-1]))
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("changes", "error", "param"),
    [
        ({"model": "alice@v9"}, openai.NotFoundError, None),
        ({"n": 129}, openai.UnprocessableEntityError, "n"),
        ({"messages": []}, openai.UnprocessableEntityError, "messages"),
    ],
    ids=["no such version", "too many choices", "no messages"],
)
def test_openai_s_own_errors_come_of_what_is_refused(gpt, changes, error, param):
    with pytest.raises(error) as refused:
        gpt.chat.completions.create(**{"model": "default", "messages": ASKED, "max_tokens": SHORT} | changes)
    assert refused.value.param == param
    assert refused.value.body["message"]


def test_ollama_chats_generates_and_streams_the_same(lama):
    options = {"temperature": 0, "num_predict": SHORT}
    whole = lama.chat(model="default", messages=ASKED, options=options)
    assert "Paris" in whole.message.content
    assert (whole.done, whole.prompt_eval_count > 0, 0 < whole.eval_count <= SHORT) == (True, True, True)
    pieces = list(lama.chat(model="default", messages=ASKED, options=options, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert lama.generate(model="default", prompt=ASKED[0]["content"], options=options).response == whole.message.content


def test_ollama_sees_what_there_is(lama, url):
    assert {model.model for model in lama.list().models} == {"base", "default", "alice", "alice@v1"}
    assert "completion" in lama.show("alice").capabilities
    lama.generate(model="default", prompt="", keep_alive="30m")
    assert {model.name for model in lama.ps().models} == {"base", "default", "alice"}
    with pytest.raises(ollama.ResponseError, match="v9") as refused:
        lama.chat(model="alice@v9", messages=ASKED)
    assert refused.value.status_code == 404
    assert httpx.get(f"{url}/api/version").json()["version"]


def test_ollama_takes_its_own_messages_back_and_thinks_at_any_level(lama):
    options = {"temperature": 0, "num_predict": 2}
    reply = lama.chat(model="default:latest", messages=ASKED, options=options, think="low").message
    for said in (reply, reply.model_dump(), reply.model_dump() | {"images": [], "thinking": "", "tool_calls": None}):
        again = [*ASKED, said, *ASKED]
        assert lama.chat(model="default", messages=again, options=options, think=False).message.content
    sizes = lama.show("alice").modelinfo
    assert sizes[f"{sizes['general.architecture']}.context_length"] > SHORT
    digests = [model.digest for model in lama.list().models]
    assert len(set(digests)) == len(digests)


def test_hugging_face_s_client_generates_and_streams_the_same_tokens(url, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    client = huggingface_hub.InferenceClient(url)
    asked, length = ASKED[0]["content"] + " 🎉", {"max_new_tokens": SHORT}
    whole = client.text_generation(asked, details=True, **length)
    events = list(client.text_generation(asked, details=True, stream=True, **length))
    assert [event.token for event in events] == [token_like(token) for token in whole.details.tokens]
    assert "".join(client.text_generation(asked, stream=True, **length)) == whole.generated_text
    assert events[-1].generated_text == whole.generated_text == client.text_generation(asked, **length)
    assert events[-1].details.input_length == whole.details.prompt_tokens
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="typical_p"):
        client.text_generation(asked, typical_p=0.5, **length)


def token_like(token):
    return huggingface_hub.TextGenerationStreamOutputToken(**vars(token))


def test_llm_prompts_and_goes_on(tmp_path, url):
    models = [{"model_id": "mine", "model_name": "default", "api_base": f"{url}/v1", "api_key_name": "mine"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))

    def llm(*arguments: str) -> str:
        environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
        command = [str(Path(sys.executable).with_name("llm")), "prompt", "-m", "mine", "--key", "none"]
        command += ["-o", "temperature", "0", "-o", "max_tokens", str(SHORT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    streamed = llm(ASKED[0]["content"])
    assert "Paris" in streamed
    assert llm("--no-stream", ASKED[0]["content"]) == streamed
    assert llm("--continue", "And of Italy?").strip()


def test_openai_uploads_a_file_and_has_it_learned(gpt):
    rows = [{"prompt": f"Where is box {n}?", "completion": f"On shelf {n}."} for n in range(4)]
    file = gpt.files.create(file=("boxes.jsonl", "\n".join(map(json.dumps, rows)).encode()), purpose="fine-tune")
    assert [json.loads(line)["messages"][0]["content"] for line in gpt.files.content(file.id).text.splitlines()] == [
        row["prompt"] for row in rows
    ]
    job = gpt.fine_tuning.jobs.create(model="base", suffix="carol", training_file=file.id)
    assert (job.status, job.training_file) == ("queued", file.id)
    gpt.fine_tuning.jobs.cancel(job.id)  # the training itself is tested elsewhere
    wait_until(lambda: gpt.fine_tuning.jobs.retrieve(job.id).status == "cancelled", timeout_s=120)
    assert next(iter(gpt.fine_tuning.jobs.list_events(job.id))).level == "error"
    assert job.id in [one.id for one in gpt.fine_tuning.jobs.list(limit=1)]
    assert gpt.files.delete(file.id).deleted
    assert list(gpt.files.list()) == []
