"""Permissions of the state folder, mended at a start."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from lars_agent.errors import LarsError
from lars_agent.runtime import engine_server
from lars_agent.training import worker
from service.cli import main as command_line
from service.cli.doctor import access
from service.process.private_files import make_private, wider_than_private
from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app, wait_until


def modes(folder: Path) -> dict[str, int]:
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in found if not path.is_symlink()}


@pytest.fixture
def loose():
    """A umask that keeps nothing from anybody."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def left(tmp_path, loose) -> Path:
    """A state folder that others may read, with things of other people's in it."""
    folder = tmp_path / "state"
    for name in ("adapters/default/v0001/manifest.json", "jobs/j-1/train.jsonl", "models/m/config.json", "other/x"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    for name in (
        "lars-agent.db",
        "lars-agent.db-wal",
        "daemon.lock",
        "settings.json",
        ".settings.json.ab.tmp",
        "notes",
    ):
        (folder / name).write_text("")
    (tmp_path / "public").write_text("")
    (tmp_path / "shared").mkdir()
    (folder / "settings2.json").symlink_to(tmp_path / "public")
    (folder / "jobs/link").symlink_to(tmp_path / "shared")
    return folder


def test_what_the_daemon_keeps_is_its_owner_s_alone_after_a_start(left):
    make_private(left)
    found = modes(left)
    others = {name: found.pop(name) for name in ("other", "other/x", "notes")}
    assert others == {"other": 0o777, "other/x": 0o666, "notes": 0o666}
    assert {name for name, mode in found.items() if mode & 0o077} == set()
    assert (found["."], found["jobs/j-1"], found["jobs/j-1/train.jsonl"]) == (0o700, 0o700, 0o600)
    assert (modes(left.parent)["public"], modes(left.parent)["shared"]) == (0o666, 0o777)  # no link was followed
    assert list(wider_than_private(left)) == []


def test_a_folder_of_everybody_s_stays_open(tmp_path):
    tmp_path.chmod(0o1777)
    make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


def test_doctor_tells_what_others_may_read(left):
    settings = Settings(data_dir=left)
    with pytest.raises(LarsError, match=rf"16 .* in {left} .* such as {left} \(0777\)"):
        access(settings)
    make_private(left)
    assert "its owner" in access(settings)
    assert "not there yet" in access(Settings(data_dir=left / "nothing"))


def test_a_daemon_mends_its_folder_at_the_start(left):
    for name in ("lars-agent.db", "lars-agent.db-wal", "settings.json", "jobs/link", "settings2.json"):
        (left / name).unlink()
    with client_of(fake_app(Settings(data_dir=left, schedule={"enabled": False}))) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.post("/feedback", json={"prompt": "Hi", "response": "Yo", "rating": 1}).status_code == 201
        found = {name: mode for name, mode in modes(left).items() if name not in ("other", "other/x", "notes")}
    written_since = {
        "clock.json",
        "starts.json",
    }  # under a umask that only a test has: the processes have one of their own
    assert {name for name, mode in found.items() if mode & 0o077} <= written_since


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(command_line.main, ["--version"]), (worker.main, ["no-such-job"]), (engine_server.main, ["no number"])],
)
def test_every_process_that_writes_keeps_what_it_writes_from_others(main, arguments, loose):
    with suppress(SystemExit, ValueError):
        main(arguments)
    assert os.umask(0) == 0o077
