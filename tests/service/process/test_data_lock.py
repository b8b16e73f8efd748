"""The lock on the data folder, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lars_agent.errors import ConfigError
from service.process.data_lock import LOCK_NAME, DataInUse, DataLock

HOLD = (
    "import sys; from pathlib import Path; from service.process.data_lock import DataLock; "
    "lock = DataLock(Path(sys.argv[1]))"
)
WAIT = "; print('held', flush=True); sys.stdin.read()"
REPOSITORY = Path(__file__).parents[3]


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder; killed at the end."""
    command = [sys.executable, "-c", HOLD + WAIT, str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_second_process_is_refused_with_the_first_one_s_id_and_command(tmp_path):
    with holder(tmp_path) as process:
        with pytest.raises(DataInUse) as caught:
            DataLock(tmp_path)
        words = str(caught.value)
        assert f"another daemon (process {process.pid}) works with {tmp_path} since 20" in words
        assert f"as `{sys.executable}" in words
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert f"(process {process.pid})" in second.stderr


def test_lock_file_of_a_killed_process_does_not_lock(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK_NAME).read_text().startswith(f"{process.pid}\n")
    DataLock(tmp_path).release()


@pytest.mark.parametrize("left", [b"", b"17\n", b"\xff\x00\n" * 9], ids=repr)
def test_lock_file_without_details_still_locks(tmp_path, left):
    lock = DataLock(tmp_path)
    (tmp_path / LOCK_NAME).write_bytes(left)
    with pytest.raises(DataInUse, match="another daemon"):
        DataLock(tmp_path)
    lock.release()


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_a_lock_file_that_is_something_else_is_refused_and_left_alone(tmp_path, kind):
    folder, other = tmp_path / "data", tmp_path / "other"
    folder.mkdir()
    lock = folder / LOCK_NAME
    if kind != "dangling link":
        other.write_text("somebody's")
    if kind.endswith("g link") or kind == "link":
        lock.symlink_to(other)
    elif kind == "hard link":
        lock.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(ConfigError, match=f"{lock} is a link, or no plain file; delete it"):
        DataLock(folder)
    assert not other.exists() if kind == "dangling link" else other.read_text() == "somebody's"
