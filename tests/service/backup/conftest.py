"""A state folder as a daemon leaves it, and backups of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.backup.encryption import Key, Lock
from service.backup.make import Made, make_backup
from service.backup.restore import Restored, model_in_use, restore
from service.db import Database
from service.db.records import now_utc
from service.settings.load import Settings, SettingsSource
from tests.service.house import House

OPEN = Lock()
TOKEN = "the-token-of-this-daemon-0123456789"


@pytest.fixture
def house(tmp_path) -> Iterator[House]:
    house = House(tmp_path / "data")
    yield house
    house.close()


@pytest.fixture
def disk(tmp_path) -> Path:
    """The folder for backups."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def back_up(settings: Settings, folder: Path, lock: Lock = OPEN, **options: Any) -> Made:
    return make_backup(settings, folder, lock, model_in_use(settings), now_utc, **options)


def put_back(data_dir: Path, file: Path, key: Key | None = None, **options: Any) -> Restored:
    """Restore into the folder, whose settings are the defaults but for what is in it."""
    return restore(file, source_of(data_dir), key or Key(), **options)


def source_of(data_dir: Path) -> SettingsSource:
    return SettingsSource(fixed={"data_dir": data_dir})


def corrections(data_dir: Path) -> set[str | None]:
    """The corrections in the database of a state folder."""
    db = Database(data_dir / "lars-agent.db")
    try:
        return {row.correction for row in db.feedback.each()}
    finally:
        db.close()


def install(data_dir: Path, name: str, sha256: str) -> None:
    """A base model is installed and chosen, as far as its record tells."""
    folder = data_dir / "models" / name
    folder.mkdir(parents=True)
    record = {"name": name, "reference": f"org/{name}", "revision": None, "sha256": sha256, "bytes": 1, "installed": ""}
    (folder / "model.json").write_text(json.dumps(record))
    (data_dir / "models" / "current").write_text(name)
