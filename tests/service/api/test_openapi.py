"""The page that FastAPI draws documents every request and every error."""

from __future__ import annotations

import pytest

EXPECTED = {
    ("post", "/generate"),
    ("post", "/generate_stream"),
    ("post", "/feedback"),
    ("get", "/feedback"),
    ("delete", "/feedback"),
    ("get", "/feedback/export"),
    ("post", "/feedback/import"),
    ("get", "/feedback/{feedback_id}"),
    ("delete", "/feedback/{feedback_id}"),
    ("get", "/interactions"),
    ("get", "/interactions/{interaction_id}"),
    ("delete", "/interactions/{interaction_id}"),
    ("get", "/adapters"),
    ("get", "/adapters/{version}"),
    ("post", "/adapters/{version}/activate"),
    ("post", "/adapters/rollback"),
    ("post", "/jobs"),
    ("get", "/jobs"),
    ("get", "/jobs/{job_id}"),
    ("get", "/jobs/{job_id}/progress"),
    ("get", "/jobs/{job_id}/events"),
    ("post", "/jobs/{job_id}/pause"),
    ("post", "/jobs/{job_id}/resume"),
    ("post", "/jobs/{job_id}/cancel"),
    ("get", "/schedule/runs"),
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/info"),
    ("get", "/metrics"),
}
ERROR_BODY = {"$ref": "#/components/schemas/ErrorBody"}


@pytest.fixture(scope="module")
def document(resident) -> dict:
    return resident.get("/openapi.json").json()


def operations(document: dict) -> dict[tuple[str, str], dict]:
    return {(verb, path): op for path, verbs in document["paths"].items() for verb, op in verbs.items()}


def test_every_operation_is_there_and_says_what_it_does(document):
    found = operations(document)
    assert set(found) >= EXPECTED
    assert [key for key in EXPECTED if not found[key].get("description")] == []


def test_every_error_has_our_body(document):
    for key, operation in operations(document).items():
        wrong = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {"401", "403", "413", "422", "500"} <= set(wrong), key
        for status, answer in wrong.items():
            assert answer["content"]["application/json"]["schema"] == ERROR_BODY, (key, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_request_body_is_documented(document):
    for key, operation in operations(document).items():
        if key in {("post", "/generate"), ("post", "/generate_stream"), ("post", "/feedback"), ("post", "/jobs")}:
            assert "schema" in operation["requestBody"]["content"]["application/json"], key
    body = operations(document)["post", "/feedback/import"]["requestBody"]
    assert "application/jsonl" in body["content"]


def test_every_reference_resolves(document):
    names = document["components"]["schemas"]

    def references(value):
        if isinstance(value, dict):
            yield from (value["$ref"],) if isinstance(value.get("$ref"), str) else ()
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    assert {ref.rsplit("/", 1)[1] for ref in references(document)} <= set(names)


def test_limits_are_documented(document):
    rating = document["components"]["schemas"]["FeedbackRequest"]["properties"]["rating"]
    assert {"type": "number", "minimum": -1, "maximum": 1} in rating["anyOf"][0].get("anyOf", rating["anyOf"])
    assert document["components"]["schemas"]["Parameters"]["properties"]["top_p"]["anyOf"][0]["maximum"] == 1
