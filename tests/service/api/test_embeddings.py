"""Embeddings in OpenAI's and Ollama's dialects, on the engine's stand-in."""

from __future__ import annotations

import base64
import math
from array import array

import pytest

from tests.service.api.conftest import LONGEST, wait_until


def unit(length: int) -> list[float]:
    return array("f", [length, 4, 0, 0]).tolist()  # the stand-in's own are not of norm 1


@pytest.mark.parametrize(
    ("given", "lengths"),
    [("Hello", [5]), (["Hello", "you"], [5, 3]), ([5, 6, 7], [3]), ([[5], [6, 7]], [1, 2])],
)
def test_texts_and_token_ids_alone_or_together_are_embedded_in_their_order(resident, given, lengths):
    body = resident.post("/v1/embeddings", json={"input": given, "model": "default", "user": "me"}).json()
    assert [one["embedding"] for one in body["data"]] == [unit(length) for length in lengths]
    assert [one["index"] for one in body["data"]] == list(range(len(lengths)))
    assert (body["object"], body["model"]) == ("list", "base")
    assert body["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    assert resident.post("/api/embed", json={"input": given}).json()["embeddings"] == [unit(one) for one in lengths]


def test_many_texts_reach_the_engine_a_few_at_a_time(client, engine, monkeypatch):
    sizes, embed = [], engine.embed
    monkeypatch.setattr(
        engine, "embed", lambda inputs, truncate: [sizes.append(len(inputs)), embed(inputs, truncate)][1]
    )
    texts = ["a" * (1 + number % 9) for number in range(40)]
    body = client.post("/v1/embeddings", json={"input": texts}).json()
    assert [one["embedding"][0] for one in body["data"]] == [len(text) for text in texts]
    assert (sum(sizes), max(sizes)) == (40, 16)


def test_base64_holds_the_numbers_as_little_endian_float32(resident):
    body = resident.post("/v1/embeddings", json={"input": "Hello", "encoding_format": "base64"}).json()
    assert array("f", base64.b64decode(body["data"][0]["embedding"])).tolist() == unit(5)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_fewer_dimensions_have_norm_1_again_and_more_are_refused(resident, path):
    body = resident.post(path, json={"input": "abc", "dimensions": 2}).json()
    (vector,) = body.get("embeddings") or [body["data"][0]["embedding"]]
    assert vector == pytest.approx([0.6, 0.8])
    assert math.hypot(*vector) == pytest.approx(1)
    refused = resident.post(path, json={"input": "abc", "dimensions": 5})
    assert refused.status_code == 422
    assert "the base model's vectors have 4 numbers" in refused.text


@pytest.mark.parametrize(
    "given", [None, 5, [], [1.5], [True], [["a"]], ["a", 5], [[1], "a", None], {"a": 1}, "a \0", ["a"] * 2049]
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_what_is_no_text_is_refused_by_name(resident, path, given):
    refused = resident.post(path, json={"input": given})
    assert refused.status_code == 422
    assert "input" in refused.text


def test_a_text_that_is_too_long_is_refused_or_cut_as_ollama_does(resident):
    long = "a" * (LONGEST + 1)
    for path, body in (("/v1/embeddings", {}), ("/api/embed", {"truncate": False})):
        refused = resident.post(path, json={"input": long} | body)
        assert (refused.status_code, "a text has more than" in refused.text) == (422, True)
    for body in ({}, {"truncate": True}):
        assert resident.post("/api/embed", json={"input": long} | body).json()["embeddings"] == [unit(LONGEST)]
    assert resident.post("/api/embeddings", json={"prompt": long}).json() == {"embedding": unit(LONGEST)}


def test_ollama_s_older_way_and_its_empty_input(resident):
    assert resident.post("/api/embeddings", json={"model": "base", "prompt": "Hello"}).json() == {"embedding": unit(5)}
    assert resident.post("/api/embeddings", json={"model": "base"}).json() == {"embedding": []}
    body = resident.post("/api/embed", json={"input": "", "keep_alive": "5m", "options": {"num_ctx": 9}}).json()
    assert (body["embeddings"], body["prompt_eval_count"], body["model"]) == ([], 0, "default")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
def test_an_unknown_model_is_not_found(resident, path):
    refused = resident.post(path, json={"input": "a", "prompt": "a", "model": "text-embedding-3-small"})
    assert (refused.status_code, "there is no model" in refused.text) == (404, True)


def test_nothing_is_recorded_and_the_device_counts_as_busy_meanwhile(client, daemon, engine, monkeypatch):
    busy, embed = [], engine.embed
    monkeypatch.setattr(daemon.model_host, "_on_busy", busy.append)
    monkeypatch.setattr(engine, "embed", lambda *args: [busy.append("embedding"), embed(*args)][1])
    client.post("/v1/embeddings", json={"input": "my sister lives in Oslo", "model": "default"})
    wait_until(lambda: len(busy) == 3)
    assert busy == [True, "embedding", False]
    assert (daemon.db.interactions.count(), daemon.db.feedback.counts()["total"]) == (0, 0)
