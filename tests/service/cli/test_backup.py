"""`lars-agent backup` and `lars-agent restore`, of a state of one's own and through a daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from service.process.data_lock import DataLock
from tests.service.backup.conftest import corrections
from tests.service.house import House


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A state folder that this process may read, and no daemon."""
    for name in [name for name in os.environ if name.startswith("LARS_AGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(tmp_path / "data"))
    house = House(tmp_path / "data")
    house.correct(2)
    house.close()
    return tmp_path / "data"


def test_a_backup_is_made_checked_and_restored_without_a_daemon(own, run, tmp_path):
    (tmp_path / "disk").mkdir()
    made = run("backup", "--to", str(tmp_path / "disk"), "--json")
    assert made.code == 0, made.err
    path = made.json["path"]
    checked = run("restore", path, "--check")
    assert (checked.code, "is whole: made" in checked.out) == (0, True)
    lock = DataLock(own)
    assert run("backup", "--to", str(tmp_path / "disk")).code == 0  # a daemon may serve
    refused = run("restore", path)
    assert (refused.code, "sudo systemctl stop lars-agent" in refused.err) == (1, True)
    lock.release()
    restored = run("restore", path)
    assert restored.code == 0, restored.err
    assert f"the state before lies in {own / 'replaced'}" in restored.out
    assert corrections(own) == {"It is 0.", "It is 1."}
    missing = run("restore", str(tmp_path / "none"))
    assert (missing.code, missing.err.count("\n")) == (1, 1)


def test_a_passphrase_comes_from_a_file_or_the_environment(own, run, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "words").write_text("correct horse\n")
    nobody = run("backup", "--to", str(tmp_path / "disk"), "--encrypt")
    assert (nobody.code, "LARS_AGENT_BACKUP_PASSPHRASE" in nobody.err) == (2, True)
    made = run("backup", "--to", str(tmp_path / "disk"), "--passphrase-file", str(tmp_path / "words"), "--json")
    assert made.json["encrypted"]
    monkeypatch.setenv("LARS_AGENT_BACKUP_PASSPHRASE", "correct horse")
    assert run("restore", made.json["path"], "--check").code == 0


def test_a_state_that_is_not_there_is_said(own, run, tmp_path, monkeypatch):
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(tmp_path / "none"))
    missing = run("backup", "--to", str(tmp_path))
    assert (missing.code, "there is nothing to back up in" in missing.err) == (1, True)


def test_a_folder_of_the_settings_is_used_and_none_is_said(own, run, tmp_path):
    unset = run("backup")
    assert (unset.code, "backup.folder is not set" in unset.err) == (1, True)
    (own / "settings.json").write_text(json.dumps({"backup": {"folder": str(tmp_path)}}))
    assert run("backup", "--json").json["path"].startswith(str(tmp_path))


def test_the_daemon_makes_it_where_one_is_named_and_gets_no_passphrase(device, run, tmp_path):
    made = run("backup", "--to", str(tmp_path), "--json")
    assert [path.name for path in tmp_path.iterdir()] == [Path(made.json["path"]).name]
    (tmp_path / "words").write_text("correct horse")
    refused = run("backup", "--to", str(tmp_path), "--passphrase-file", str(tmp_path / "words"))
    assert (refused.code, "a passphrase is not sent to the daemon" in refused.err) == (1, True)
