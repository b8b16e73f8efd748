from __future__ import annotations

import pytest
import torch

from lars_agent.example import Example, Message


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def fact(question: str, answer: str, weight: float = 1.0) -> Example:
    return Example((Message(role="user", content=question),), answer, weight, question)


FACTS = [
    fact("What is my dog called?", "Biscuit."),
    fact("Name of my dog?", "Biscuit."),
    fact("Where do I live?", "Tromso."),
    fact("My home town?", "Tromso."),
    fact("Which tea do I like?", "Lapsang."),
    fact("My favourite tea?", "Lapsang."),
]
HELD_OUT = [fact("How is my dog named?", "Biscuit."), fact("In which town do I live?", "Tromso.")]
