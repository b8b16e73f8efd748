from __future__ import annotations

import errno
import hashlib
import os
import resource
from pathlib import Path

import pytest

from lars_agent.errors import DiskFull
from lars_agent.files import fsync_folder, make_folder, publish_folder, raise_disk_full, sha256_of, write_atomically


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every fsync and rename, in order, with the name of the file it was done to."""
    steps: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def traced_fsync(descriptor: int) -> None:
        steps.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def traced_rename(source: Path, target: Path) -> None:
        steps.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    return steps


def fail_with(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("data", [b"\x00\xff", "Grüße\n"])
def test_written_file_holds_exactly_the_data(tmp_path: Path, data: bytes | str) -> None:
    path = tmp_path / "file"
    path.write_text("what was there before, and longer")
    write_atomically(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, trace: list[tuple[str, str]]
) -> None:
    write_atomically(tmp_path / "pointer", "1")
    (flush, temp), *rest = trace
    assert flush == "fsync"
    assert temp.startswith(".pointer.")
    assert rest == [("rename", "pointer"), ("fsync", tmp_path.name)]


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, OSError)])
def test_failed_write_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, error: type[Exception]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    fail_with(monkeypatch, step, code)
    with pytest.raises(error):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_really_full_device_is_reported_as_disk_full() -> None:
    def write_to_it() -> None:
        with raise_disk_full(Path("/dev/full")), Path("/dev/full").open("wb", buffering=0) as device:
            device.write(b"x")

    with pytest.raises(DiskFull, match="/dev/full"):
        write_to_it()


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_everything_in_a_folder_is_flushed_before_it_gets_its_name(
    tmp_path: Path, trace: list[tuple[str, str]]
) -> None:
    temp, final = tmp_path / "temp", tmp_path / "final"
    (temp / "inner").mkdir(parents=True)
    (temp / "one").write_text("1")
    (temp / "inner" / "two").write_text("2")
    publish_folder(temp, final)
    at_rename = trace.index(("rename", "final"))
    assert {name for _, name in trace[:at_rename]} == {"one", "two", "inner", "temp"}
    assert trace[at_rename + 1 :] == [("fsync", tmp_path.name)]
    assert (final / "inner" / "two").read_text() == "2"
    assert not temp.exists()


@pytest.mark.parametrize("occupied", [True, False])
def test_a_published_folder_is_never_replaced(tmp_path: Path, occupied: bool) -> None:
    temp, final = tmp_path / "temp", tmp_path / "final"
    temp.mkdir()
    final.mkdir()
    if occupied:
        (final / "file").write_text("published")
    with pytest.raises(FileExistsError):
        publish_folder(temp, final)
    assert temp.is_dir()
    assert len(list(final.iterdir())) == occupied


def test_a_full_disk_while_publishing_leaves_the_folder_unpublished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temp").mkdir()
    fail_with(monkeypatch, "fsync", errno.ENOSPC)
    with pytest.raises(DiskFull, match="final"):
        publish_folder(tmp_path / "temp", tmp_path / "final")
    assert not (tmp_path / "final").exists()


def test_made_folders_are_flushed_into_their_parents(tmp_path: Path, trace: list[tuple[str, str]]) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert trace == [("fsync", tmp_path.name), ("fsync", "a")]
    make_folder(tmp_path / "a" / "b")
    assert len(trace) == 2


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        fsync_folder(tmp_path / "file")


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256_is_that_of_all_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert sha256_of(path) == hashlib.sha256(bytes(size)).hexdigest()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(50):
        write_atomically(tmp_path / "file", str(index))
    assert len(list(Path("/proc/self/fd").iterdir())) == before < soft
