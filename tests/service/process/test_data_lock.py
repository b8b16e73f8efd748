"""One daemon works with a data folder: told apart by the kernel, between real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    with holder(tmp_path) as process:
        with pytest.raises(DataInUse) as caught:
            DataLock(tmp_path)
        words = str(caught.value)
        assert f"another daemon (process {process.pid}) works with {tmp_path} since 20" in words
        assert f"as `{sys.executable}" in words
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert f"(process {process.pid})" in second.stderr


def test_what_a_killed_process_left_is_no_lock(tmp_path):
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK_NAME).read_text().startswith(f"{process.pid}\n")
    DataLock(tmp_path).release()


@pytest.mark.parametrize("left", [b"", b"17\n", b"\xff\x00\n" * 9], ids=repr)
def test_a_lock_that_says_little_is_still_one(tmp_path, left):
    lock = DataLock(tmp_path)
    (tmp_path / LOCK_NAME).write_bytes(left)
    with pytest.raises(DataInUse, match="another daemon"):
        DataLock(tmp_path)
    lock.release()
