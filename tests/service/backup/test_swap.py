"""A restored state takes the place of the one before whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.backup.swap import BESIDE, MAKING, PARTS, REPLACED, commit, finish, replaced_states

MOMENT = datetime(2026, 11, 30, 12, tzinfo=UTC)
CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
FOLDERS = ("adapters", "jobs")


def lay(folder: Path, word: str, *more: str) -> None:
    """A state whose every file holds the word."""
    folder.mkdir()
    for name in (*PARTS, *more):
        if name in FOLDERS:
            (folder / name).mkdir()
        (folder / name / "file" if name in FOLDERS else folder / name).write_text(word)


def words(folder: Path) -> dict[str, str]:
    names = {name: folder / name / "file" if name in FOLDERS else folder / name for name in (*PARTS, *BESIDE)}
    return {name: path.read_text() for name, path in names.items() if path.exists()}


def killed_at(number: int, action, data_dir: Path) -> bool:
    """Run the action in a process that kills itself before its `number`th change in the folder; False if it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's about threads, of which the child uses none
        pid = os.fork()
    if pid == 0:
        left = [number]

        def hook(event: str, arguments: tuple) -> None:
            if event in CHANGING and str(arguments[0]).startswith(str(data_dir)):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: no power is cut here, and nothing has to wait for a disk."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


def test_a_kill_at_any_change_leaves_the_old_state_or_the_new_one_whole(memory):
    old, new = dict.fromkeys((*PARTS, *BESIDE), "old"), dict.fromkeys(PARTS, "new")
    found = list[dict[str, str]]()
    for number in range(1, 200):
        data_dir = memory / str(number)
        lay(data_dir, "old", *BESIDE)
        lay(data_dir / MAKING, "new")
        was_killed = killed_at(number, lambda: commit(data_dir, MOMENT), data_dir)  # noqa: B023
        if number % 3 == 0:
            killed_at(1 + number % 7, lambda: finish(data_dir), data_dir)  # noqa: B023
        finish(data_dir)
        found.append(words(data_dir))
        assert found[-1] in (old, new)
        assert {path.name for path in data_dir.iterdir()} - {*PARTS, *BESIDE} <= {REPLACED}
        for _, folder in replaced_states(data_dir):
            assert (words(folder), found[-1]) == (old, new)
        assert bool(replaced_states(data_dir)) == (found[-1] == new)
        shutil.rmtree(data_dir)
        if not was_killed:
            break
    assert not was_killed
    assert (found[0], found[-1]) == (old, new)
    assert found.count(new) > 10


def test_where_there_was_no_state_nothing_is_put_aside(tmp_path):
    (tmp_path / "data").mkdir()
    lay(tmp_path / "data" / MAKING, "new")
    assert commit(tmp_path / "data", MOMENT) is None
    assert words(tmp_path / "data") == dict.fromkeys(PARTS, "new")
    assert replaced_states(tmp_path / "data") == []


def test_a_state_in_the_making_is_no_state(tmp_path):
    lay(tmp_path / "data", "old")
    (tmp_path / "data" / MAKING).mkdir()
    with pytest.raises(AssertionError, match="is whole"):
        commit(tmp_path / "data", MOMENT)
    assert finish(tmp_path / "data") is False
    assert (words(tmp_path / "data"), (tmp_path / "data" / MAKING).exists()) == (dict.fromkeys(PARTS, "old"), False)
