"""Never a 500 that input can cause, whatever it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXTS = st.text(st.characters(), max_size=12)  # surrogates and NUL included
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from([10**400, "up", "v1", "base"])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": VALUES}))
FIELDS = {
    "/feedback": [
        "interaction_id",
        "prompt",
        "messages",
        "response",
        "rating",
        "correction",
        "comment",
        "tags",
        "profile",
    ],
    "/generate": ["inputs", "parameters", "stream"],
    "/generate_stream": ["inputs", "parameters", "stream"],
    "/adapters/v1/activate": [],
    "/jobs/j-none/cancel": [],
    "/feedback/import": [
        "prompt",
        "completion",
        "messages",
        "conversations",
        "instruction",
        "output",
        "chat",
        "snapshot",
    ],
    "/v1/feedback": ["type", "data", "meta", "snapshot"],
    "/v1/fine_tuning/jobs": ["model", "training_file", "suffix", "seed", "method", "hyperparameters", "metadata"],
}
EDGES = ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00")  # no such moment in UTC
MOMENTS = st.datetimes() | st.datetimes(timezones=st.timezones()) | st.sampled_from(EDGES)
ANY_INPUT = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("path", FIELDS)
def test_any_body_is_answered_clearly(resident, path):
    names = st.sampled_from(FIELDS[path]) if FIELDS[path] else st.nothing()

    @ANY_INPUT
    @given(VALUES | st.dictionaries(names, VALUES | TURNS) | st.binary(max_size=30))
    def check(body):
        content = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"content-type": "application/json"}
        is_clear(resident.post(path, content=content, headers=headers))

    check()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["/feedback", "/interactions", "/adapters", "/feedback/export", "/jobs", "/info"])
def test_any_query_is_answered_clearly(resident, method, path):
    names = st.sampled_from(["profile", "limit", "after", "before", "tag", "format", "verify", "x"])
    values = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.integers() | st.floats() | MOMENTS

    @ANY_INPUT
    @given(st.dictionaries(names, values, max_size=3))
    def check(query):
        is_clear(resident.request(method, path, params={name: str(value) for name, value in query.items()}))

    check()


def is_clear(response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "code", "param"}
