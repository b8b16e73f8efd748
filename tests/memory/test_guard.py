"""The guard in processes of their own: what it sees, when it speaks, and what it forgets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from lars_agent.errors import BudgetExceeded, MemoryPressure
from lars_agent.memory.guard import LIMIT_SHARE, Guard
from lars_agent.memory.measure import peak_rss_bytes, pss_bytes, reset_peak
from tests.allocators import NAMES, environment_with
from tests.tiny import tiny_model

CHILD = """
import mmap, tempfile
from lars_agent.errors import MemoryPressure
from lars_agent.memory.guard import Guard
from lars_agent.memory.measure import pss_bytes, rss_bytes
BALLAST = 200_000_000

def speaks(guard):
    try:
        guard.check()
    except MemoryPressure as pressure:
        return pressure.held_bytes
    return 0

before = pss_bytes()  # other processes map Python's and torch's pages too
guard = Guard(before + 150_000_000)
"""


@pytest.fixture(params=NAMES)
def child(request) -> Callable[[str], None]:
    """Runs code after `CHILD` in a process of its own; with either allocator."""
    environment = environment_with(request.param) | {"OMP_NUM_THREADS": "1"}

    def run(code: str) -> None:
        command = [sys.executable, "-c", CHILD + code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


def test_without_a_budget_it_never_speaks():
    Guard(None).check()


@pytest.fixture(autouse=True)
def other_tests_peaks_are_forgotten():
    reset_peak()


def test_it_speaks_before_the_budget_is_reached():
    with pytest.raises(MemoryPressure) as caught:
        Guard(int(pss_bytes() / (LIMIT_SHARE + 0.005))).check()
    assert caught.value.held_bytes <= peak_rss_bytes()


def test_what_came_and_went_since_the_last_look_counts_until_it_is_relaxed(child):
    child("""
ballast = b"x" * BALLAST
del ballast
assert pss_bytes() < before + BALLAST / 2
assert speaks(guard) > before + 0.9 * BALLAST
guard.reset()
assert speaks(guard) == 0
assert guard.peak_bytes > before + 0.9 * BALLAST
""")


def test_it_speaks_before_the_next_piece_of_the_same_size_would_pass_the_budget(child):
    child("""
guard = Guard(before + 300_000_000)
pieces = []
for number in range(2):
    guard.check()
    pieces.append(b"x" * 80_000_000)
assert before + 140_000_000 < speaks(guard) < before + 200_000_000
assert pss_bytes() < before + 270_000_000
""")


def test_pages_that_another_process_maps_too_count_by_their_share(child):
    child("""
import os, signal
file = tempfile.TemporaryFile()
file.write(b"x" * BALLAST)
file.flush()
shared = mmap.mmap(file.fileno(), BALLAST, prot=mmap.PROT_READ)
sum(shared[place] for place in range(0, BALLAST, 4096))
guard.reset()
assert speaks(guard) > before + 0.9 * BALLAST
ready, done = os.pipe(), os.pipe()
other = os.fork()
if other == 0:
    sum(shared[place] for place in range(0, BALLAST, 4096))
    os.write(ready[1], b".")
    os.read(done[0], 1)
    os._exit(0)
os.read(ready[0], 1)
guard.reset()
alone = speaks(guard) == 0
os.write(done[1], b".")
os.waitpid(other, 0)
assert alone
""")


def test_with_no_smaller_plan_the_budget_itself_is_the_line():
    held = pss_bytes()
    guard = Guard(int(held / 0.99))
    with pytest.raises(MemoryPressure):
        guard.check()
    guard.use_full_budget(held)
    with pytest.raises(BudgetExceeded, match=r"raise memory\.budget_bytes"):
        guard.use_full_budget(2 * held)


def test_it_looks_before_each_layer_forward_and_recomputed(monkeypatch):
    model, looks, guard = tiny_model("llama"), [], Guard(None)
    monkeypatch.setattr(guard, "check", lambda: looks.append(1))
    with guard.check_layers(model):
        model(torch.tensor([[5, 6, 7]]))
    assert len(looks) == 2
    model(torch.tensor([[5, 6, 7]]))
    assert len(looks) == 2
