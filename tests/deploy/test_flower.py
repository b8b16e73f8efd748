"""The parts of the federation that need no Flower: the bound on updates, and the search in what is sent."""

from __future__ import annotations

import base64
import gzip
import secrets

import numpy
import pytest

from deploy.flower.clipping import clipped
from deploy.flower.simulate import control, found

PLANTED = ["ada has a capybara from Adaville-c0ffee.", "f-ada-3", "Grüße aus Tromsø"]


def norm(arrays) -> float:
    return float(numpy.sqrt(sum((array.astype(numpy.float64) ** 2).sum() for array in arrays)))


@pytest.mark.parametrize("size", [0.0, 0.5, 3.0, 1e6])
def test_an_update_is_shortened_to_the_bound_and_a_small_one_is_sent_as_it_is(size):
    rng = numpy.random.default_rng(0)
    before = [rng.normal(size=shape).astype(numpy.float32) for shape in ((4, 3), (5,))]
    update = [rng.normal(size=array.shape) for array in before]
    after = [(old + size * new / norm(update)).astype(numpy.float32) for old, new in zip(before, update, strict=True)]
    sent = clipped(before, after, 1.0, 0.0, rng)
    change = [new.astype(numpy.float64) - old for new, old in zip(sent, before, strict=True)]
    assert norm(change) == pytest.approx(min(size, 1.0), abs=1e-5)
    assert [array.dtype for array in sent] == [array.dtype for array in before]


def test_noise_is_in_parts_of_the_bound():
    still = [numpy.zeros(100_000, dtype=numpy.float32)]
    sent = clipped(still, still, 2.0, 0.25, numpy.random.default_rng(0))
    assert sent[0].std() == pytest.approx(0.5, rel=0.02)


def test_planted_text_is_found_however_it_is_sent():
    assert control(PLANTED) == 0
    inside = secrets.token_bytes(500) + gzip.compress(base64.b64encode(b"so: " + PLANTED[0].encode()))
    assert found(PLANTED, inside) == [PLANTED[0]]
    assert found(PLANTED, secrets.token_bytes(100_000)) == []
