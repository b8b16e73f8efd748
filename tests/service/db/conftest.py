from __future__ import annotations

from collections.abc import Iterator

import pytest

from lars_agent.example import Message
from service.db import Database
from service.db.interactions import new_interaction_id
from service.db.records import InteractionRecord, now_utc


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "lars-agent.db"


@pytest.fixture
def db(path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


@pytest.fixture
def interaction_id(db) -> str:
    return add_interaction(db)


def add_interaction(db: Database, profile: str = "alice", response: str = "Paris?") -> str:
    messages = (Message(role="user", content="What is the capital of France?"),)
    new = InteractionRecord(
        new_interaction_id(), now_utc(), profile, messages, {"top_k": 3}, response, 2, "eos_token", 8, 3, 7
    )
    db.interactions.add(new)
    return new.id
