"""Starts that fail are counted, whatever the file says and wherever the disk stands."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lars_agent.errors import DiskFull
from service.process import crash_loop as starts
from service.process.crash_loop import SafeMode, StartupFailures


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "starts.json"


def begun(file: Path) -> StartupFailures:
    made = StartupFailures(file)
    made.begin()
    return made


def test_three_starts_that_failed_make_the_next_one_safe(file):
    assert [begun(file).safe_mode for _ in range(5)] == [False, False, False, True, True]


def test_a_start_that_went_well_makes_the_next_one_normal(file):
    for _ in range(3):
        begun(file)
    safe = begun(file)
    with pytest.raises(SafeMode, match="the last 3 starts failed; only the base model is served"):
        safe.require_normal()
    safe.clear()
    assert safe.safe_mode  # it stays what it began as
    begun(file).require_normal()


def test_a_start_that_was_refused_does_not_count(file):
    for _ in range(5):
        begun(file).exclude()
    assert not begun(file).safe_mode


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"3"',
        b"{}",
        b'{"failed": "9"}',
        b'{"failed": -4}',
        b'{"failed": true}',
        b"[" * 9999,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_damaged_file_counts_as_none(file, content):
    file.write_bytes(content)
    assert begun(file).failed == 0
    assert begun(file).failed == 1


def test_a_folder_in_its_place_keeps_nothing_from_starting(file):
    file.mkdir()
    assert begun(file).failed == 0


@pytest.mark.parametrize("error", [DiskFull("no room"), OSError(errno.EROFS, "read-only")], ids=repr)
def test_a_disk_that_takes_nothing_is_only_logged(file, monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(starts, "write_atomically", refuse)
    made = begun(file)
    made.clear()
    assert (made.failed, file.exists()) == (0, False)
