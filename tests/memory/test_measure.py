from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lars_agent.memory import measure
from lars_agent.memory.measure import peak_rss_bytes, pss_bytes, reset_peak, rss_bytes

BLOCK_BYTES = 64 * 2**20
NO_PROCESS = 2**22 + 1  # above the kernel's highest process id


def touched(size: int) -> bytearray:
    block = bytearray(size)
    block[::4096] = b"\x01" * len(range(0, size, 4096))
    return block


def test_resident_bytes_grow_by_what_is_touched() -> None:
    before = rss_bytes()
    block = touched(BLOCK_BYTES)
    assert rss_bytes() - before >= 0.9 * BLOCK_BYTES
    del block


def test_the_peak_remembers_what_was_given_back() -> None:
    held_before = rss_bytes()
    block = touched(BLOCK_BYTES)
    del block
    assert peak_rss_bytes() >= held_before + 0.9 * BLOCK_BYTES
    assert peak_rss_bytes() >= rss_bytes()


def test_a_reset_peak_counts_from_here_on() -> None:
    block = touched(BLOCK_BYTES)
    high = peak_rss_bytes()
    del block
    if not reset_peak():
        pytest.skip("this system does not allow the peak to be reset")
    assert peak_rss_bytes() <= high - 0.8 * BLOCK_BYTES
    block = touched(BLOCK_BYTES)
    assert peak_rss_bytes() >= rss_bytes() >= BLOCK_BYTES
    del block


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
