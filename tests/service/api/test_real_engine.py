"""The composition as it is in the field: a real (tiny) model, pulled, opened and served by the real engine."""

from __future__ import annotations

import pytest

from service.app import create_app
from service.settings.load import Settings
from tests.service.api.conftest import client_of, stream_events, wait_until
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        model={"name": str(folder), "dtype": "float32"},
        schedule={"enabled": False},
        runtime={"threads": 1},
    )
    with client_of(create_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200, timeout_s=60)
        yield client


def test_same_seed_gives_the_same_reply(client):
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 8, "do_sample": True, "seed": 3}}
    first, again = (client.post("/generate", json=body).json() for _ in range(2))
    assert first["generated_text"] == again["generated_text"]
    assert first["details"]["seed"] == 3
    assert first["details"]["adapter_version"] == "base"


def test_stream_is_the_reply_in_pieces(client):
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 8, "seed": 3, "do_sample": True}}
    whole = client.post("/generate", json=body).json()["generated_text"]
    pieces = list(stream_events(client.post("/generate_stream", json=body)))
    assert "".join(piece["token"]["text"] for piece in pieces) == whole == pieces[-1]["generated_text"]


def test_prompt_longer_than_the_context_is_named(client):
    response = client.post("/generate", json={"inputs": "x" * 2000})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "inputs"
    assert "the model's context is 512" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0.01, "top_p": 1e-9},
        {"temperature": 100, "top_k": 2**31},
        {"repetition_penalty": 10, "do_sample": True},
        {"repetition_penalty": 0.1, "temperature": 0.01},
        {"seed": 2**63 - 1, "do_sample": True},
        {"max_new_tokens": 1_000_000, "stop": ["\u0001" * 1000]},
    ],
)
def test_extreme_parameters_are_answered(client, parameters):
    body = {"inputs": "\u202e 🙂 <|im_end|>", "parameters": {"max_new_tokens": 4, **parameters}}
    assert client.post("/generate", json=body).status_code == 200, parameters


def test_a_correction_is_in_the_prompt_of_the_next_reply_which_says_so(client):
    def generate(recall: bool | None = None, model: str | None = None) -> dict:
        parameters = {"max_new_tokens": 4, "recall": recall, "adapter_id": model}
        return client.post("/generate", json={"inputs": "Where did I put my hat?", "parameters": parameters}).json()

    def chat(**more) -> dict:
        messages = [{"role": "user", "content": "Where did I put my hat?"}]
        return client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4, **more}).json()

    before = generate()
    assert before["details"]["recalled"] == []
    feedback = {"prompt": "Where is my hat?", "response": "?", "correction": "On the hook."}
    feedback_id = client.post("/feedback", json=feedback).json()["id"]
    after = generate()
    (recalled,) = after["details"]["recalled"]
    assert recalled["feedback_id"] == feedback_id
    assert after["details"]["prompt_tokens"] > before["details"]["prompt_tokens"]
    kept = client.get(f"/interactions/{after['interaction_id']}").json()
    assert [message["content"] for message in kept["messages"]] == ["Where did I put my hat?"]
    assert chat()["lars"]["recalled"][0]["feedback_id"] == feedback_id
    for without in (generate(recall=False), generate(model="base")):
        assert (without["details"]["recalled"], without["details"]["prompt_tokens"]) == (
            [],
            before["details"]["prompt_tokens"],
        )
    assert chat(recall=False)["lars"]["recalled"] == []
    assert generate(recall=True, model="base")["details"]["recalled"]
    client.delete(f"/feedback/{feedback_id}")
    assert generate()["details"]["recalled"] == []
