from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lars_agent.memory import measure
from lars_agent.memory.measure import peak_rss_bytes, pss_bytes, reset_peak, rss_bytes

BLOCK_BYTES = 64 * 2**20
NO_PROCESS = 2**22 + 1  # above the kernel's highest process id


# Each in a fresh process: one that has run other tests has freed memory that a block of its own can be taken from.
TOUCHED = """
import sys
from lars_agent.memory.measure import peak_rss_bytes, reset_peak, rss_bytes
size = int(sys.argv[1])
def touched():
    block = bytearray(size)
    block[::4096] = b"1" * len(block[::4096])
    return block
"""


def measured(code: str) -> list[int]:
    """What `code` prints after a page of each block that it makes by `touched()` was written."""
    command = [sys.executable, "-c", TOUCHED + code, str(BLOCK_BYTES)]
    return [int(word) for word in subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.split()]


def test_resident_bytes_grow_by_what_is_touched() -> None:
    before, after = measured("before = rss_bytes(); block = touched(); print(before, rss_bytes())")
    assert after - before >= 0.9 * BLOCK_BYTES


def test_the_peak_remembers_what_was_given_back() -> None:
    before, peak, after = measured("before = rss_bytes(); touched(); print(before, peak_rss_bytes(), rss_bytes())")
    assert peak >= before + 0.9 * BLOCK_BYTES
    assert peak >= after


def test_a_reset_peak_counts_from_here_on() -> None:
    code = """
touched()
high, is_reset, low = peak_rss_bytes(), reset_peak(), peak_rss_bytes()
block = touched()
print(int(is_reset), high, low, rss_bytes(), peak_rss_bytes())
"""
    is_reset, high, low, again, peak = measured(code)
    if not is_reset:
        pytest.skip("this system does not allow the peak to be reset")
    assert low <= high - 0.8 * BLOCK_BYTES
    assert peak >= again >= BLOCK_BYTES


def test_shared_pages_are_counted_by_share() -> None:
    assert 0 < pss_bytes() <= rss_bytes() * 1.1


def test_another_process_can_be_measured() -> None:
    code = "block = bytearray(32 * 2**20); block[::4096] = b'1' * len(block[::4096]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert rss_bytes(process.pid) >= 32 * 2**20
        assert peak_rss_bytes(process.pid) >= 32 * 2**20
        process.communicate(b"\n")


@pytest.mark.parametrize("measured", [rss_bytes, peak_rss_bytes])
def test_a_process_that_is_gone_is_an_error(measured: object) -> None:
    with pytest.raises(ProcessLookupError, match=str(NO_PROCESS)):
        measured(NO_PROCESS)  # type: ignore[operator]


def test_without_proc_the_figures_come_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PROC", tmp_path)
    assert peak_rss_bytes() >= 0.5 * rss_bytes()
    assert 0 < pss_bytes() <= rss_bytes()
    assert not reset_peak()
