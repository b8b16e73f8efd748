from __future__ import annotations

import torch

from lars_agent.runtime.copying import Copier

EVEN = torch.zeros(10)


def likelier(copier: Copier) -> set[int]:
    return set(copier(EVEN).nonzero()[:, 0].tolist())


def test_each_answer_is_gone_on_with_as_long_as_the_reply_agrees_with_it():
    copier = Copier([[1, 2, 3, 9], [1, 4, 9]], 5.0)
    assert likelier(copier) == {1}
    copier.append(1)
    assert likelier(copier) == {2, 4}
    assert copier(EVEN)[2] == 5.0  # nats, once, however many answers go on so
    copier.append(4)
    assert likelier(copier) == {9}
    copier.append(9)
    assert likelier(copier) == set()


def test_a_reply_that_began_otherwise_is_joined_where_two_tokens_agree():
    copier = Copier([[1, 2, 3, 9]], 5.0)
    for token, expected in ((7, set()), (1, set()), (2, {3}), (3, {9})):
        copier.append(token)
        assert likelier(copier) == expected


def test_without_answers_or_strength_logits_are_the_same_tensor():
    assert Copier()(EVEN) is EVEN
    assert Copier([[1]], 0.0)(EVEN) is EVEN
