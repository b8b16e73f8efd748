"""The count of failed starts, with damaged files and failing disks."""

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


def test_safe_mode_follows_three_failed_starts(file):
    assert [begun(file).safe_mode for _ in range(5)] == [False, False, False, True, True]


def test_successful_start_resets_the_count(file):
    for _ in range(3):
        begun(file)
    safe = begun(file)
    with pytest.raises(SafeMode, match="the last 3 starts failed; only the base model is served"):
        safe.require_normal()
    safe.clear()
    assert safe.safe_mode  # it stays what it began as
    begun(file).require_normal()


def test_excluded_start_does_not_count(file):
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
def test_damaged_file_counts_as_zero_failures(file, content):
    file.write_bytes(content)
    assert begun(file).failed == 0
    assert begun(file).failed == 1


def test_folder_in_place_of_the_file_does_not_prevent_a_start(file):
    file.mkdir()
    assert begun(file).failed == 0


@pytest.mark.parametrize("error", [DiskFull("no room"), OSError(errno.EROFS, "read-only")], ids=repr)
def test_failed_write_is_only_logged(file, monkeypatch, error):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(starts, "write_atomically", refuse)
    made = begun(file)
    made.clear()
    assert (made.failed, file.exists()) == (0, False)
