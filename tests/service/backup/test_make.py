"""Making a backup: what is in it, that it is whole, and what becomes of the older ones."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest

from lars_agent.errors import ConfigError
from service.backup.archive import Archive
from service.backup.encryption import Key, Lock, opened, read_identities
from service.backup.errors import BackupDamaged, BackupFailed, BackupLocked, BackupRefused, BackupRunning
from service.backup.folder import BackupFile, backups_in, device_of, disk_named, outdated
from service.backup.make import SCRATCH, state_held
from service.backup.nightly import make_kept
from service.db.records import NewFeedback
from service.settings.load import Settings
from tests.service.backup.conftest import TOKEN, back_up, corrections, install, put_back
from tests.service.house import House
from tests.service.housekeeping.test_disk_alarms import mounted

SECRET = "Zyxolotl Quendorp"
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def tell(house: House, correction: str, profile: str = "default") -> str:
    new = NewFeedback(
        messages=({"role": "user", "content": "Who?"},), response="?", correction=correction, profile=profile
    )
    return house.db.feedback.add(new)[0].id


def names(path: Path) -> list[str]:
    with tarfile.open(path) as file:
        return file.getnames()


def check(data: bytes) -> None:
    Archive(io.BytesIO(data), "x").check()


@pytest.fixture
def small(house, disk) -> bytes:
    """The bytes of a backup of little."""
    house.publish(learned=house.correct(2))
    return back_up(house.settings, disk).file.path.read_bytes()


def test_what_is_acknowledged_before_a_backup_begins_is_in_it_while_a_writer_goes_on(house, disk, tmp_path):
    known, over = list[str](), threading.Event()

    def write() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            tell(house, f"It is number {number}.")
            known.append(f"It is number {number}.")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(known) < 20:
            pass
        before = {*known}
        made = back_up(house.settings, disk)
    finally:
        over.set()
        writer.join()
    put_back(tmp_path / "new", made.file.path)
    assert before <= corrections(tmp_path / "new") <= {*known}


def test_the_state_is_in_it_and_neither_the_token_nor_models_nor_what_was_deleted(house, disk):
    house.correct(2)
    house.db.erasures.feedback(tell(house, f"Your dog is called {SECRET}."))
    for _ in range(2):
        house.publish()
    house.publish("alice")
    house.publish()
    house.store.activate("default", 2)  # v3 is what nothing in use goes back to
    data = house.settings.data_dir
    (data / "settings.json").write_text(json.dumps({"server": {"token": TOKEN}, "idle": {"on_battery": True}}))
    install(data, "tiny", "a" * 64)
    (data / "jobs" / "j-1").mkdir(parents=True)
    (data / "jobs" / "j-1" / "train.jsonl").write_text("{}")
    made = back_up(house.settings, disk).file
    files = ("adapter_config.json", "adapter_model.safetensors", "manifest.json")
    versions = [f"adapters/{one}/{name}" for one in ("alice/v0001", "default/v0002", "default/v0001") for name in files]
    pointers = [f"adapters/{profile}/{name}" for profile in ("alice", "default") for name in ("active", "last")]
    expected = ["manifest.json", "manifest.sha256", "settings.json", "lars-agent.db", *versions, *pointers]
    assert sorted(names(made.path)) == sorted(expected)
    content = made.path.read_bytes()
    assert TOKEN.encode() not in content
    assert SECRET.encode() not in content
    assert b"It is 1." in content
    with tarfile.open(made.path) as file:
        found = json.load(file.extractfile("manifest.json"))
        assert json.load(file.extractfile("settings.json")) == {"idle": {"on_battery": True}}
        for name, listed in found["files"].items():
            assert hashlib.sha256(file.extractfile(name).read()).hexdigest() == listed["sha256"]
    assert (found["base_model"]["reference"], found["base_model"]["sha256"]) == ("org/tiny", "a" * 64)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert [path.name for path in disk.iterdir()] == [made.path.name]
    assert not (data / SCRATCH).exists()


def test_a_damaged_byte_anywhere_is_refused(small):
    check(small)
    ends = (*range(0, 4000, 29), *range(len(small) - 9000, len(small), 61))
    for place in (*ends, *range(4000, len(small) - 9000, 8009)):
        damaged = bytearray(small)
        damaged[place] ^= 1 << place % 8
        with pytest.raises((BackupDamaged, BackupRefused)):
            check(bytes(damaged))


def test_what_is_cut_off_or_added_is_refused(small):
    for size in (*range(0, len(small), 7919), len(small) - 1, len(small) - 512, len(small) - 1024):
        with pytest.raises(BackupDamaged):
            check(small[:size])
    for more in (b"\0", bytes(512), b"x"):
        with pytest.raises(BackupDamaged):
            check(small + more)


def packed(
    files: dict[str, bytes],
    *,
    more: Sequence[tarfile.TarInfo] = (),
    listed: list[str] | None = None,
    **changes: object,
) -> bytes:
    """A tar whose manifest is right, as one who wants to do harm would make it."""
    names = listed or [*files]
    sums = {name: {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()} for name in names}
    manifest = {"version": "0", "schema": "0009", "created": "", "base_model": None, "format": 1, "files": sums}
    manifest |= changes
    text = json.dumps(manifest).encode()
    own = {"manifest.json": text, "manifest.sha256": f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, content in {**own, **files}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            file.addfile(info, io.BytesIO(content))
        for info in more:
            file.addfile(info)
    data = out.getvalue()
    return data[: len(data.rstrip(b"\0")) + 511 & ~511] + bytes(1024)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


DB = {"lars-agent.db": b"x" * 700}


def test_members_in_another_order_or_of_another_content_are_refused():
    two = {**DB, "settings.json": b"{}"}
    check(packed(two))
    for names in (["settings.json", "lars-agent.db"], ["lars-agent.db"]):
        with pytest.raises(BackupDamaged):
            check(packed(two, listed=names))
    swapped = packed({"adapters/a/active": b"1\n", "adapters/a/last": b"2\n", **DB})
    for one, other in ((b"1\n" + bytes(510), b"2\n" + bytes(510)), (b"adapters/a/active", b"adapters/a/xctive")):
        with pytest.raises(BackupDamaged):
            check(swapped.replace(one, other, 1))


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "adapters/../x", "adapters/base/active", "adapters/a/v1/x", "models/m/config.json", ""],
)
def test_a_file_of_elsewhere_is_refused(name, tmp_path):
    (tmp_path / "b.tar").write_bytes(packed({**DB, name: b"harm"}))
    with pytest.raises(BackupDamaged, match="no backup has a file"):
        put_back(tmp_path / "data", tmp_path / "b.tar")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b.tar", "daemon.lock", "data"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind):
    with pytest.raises(BackupDamaged):
        check(packed(DB, more=[link("settings.json", "/etc/passwd", kind)]))
    data = bytearray(packed({**DB, "settings.json": b""}))
    at = data.rindex(b"settings.json")
    data[at : at + 512] = link("settings.json", "/etc/passwd", kind).tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(BackupDamaged):
        check(bytes(data))


def test_only_some_are_kept_and_none_of_another_device(house, disk):
    house.correct(1)
    settings = Settings(data_dir=house.settings.data_dir, backup={"folder": str(disk), "keep": 2})
    foreign = disk / f"lars-agent-{'0' * 8}-20260101T000000.000Z.tar"
    foreign.write_text("")
    made = [make_kept(settings, lambda folder: back_up(settings, folder)).path for _ in range(4)]
    assert {*disk.iterdir()} == {foreign, *made[-2:]}


def test_nothing_is_deleted_and_nothing_left_where_the_new_one_fails(house, disk):
    house.correct(1)
    first = back_up(house.settings, disk).file.path
    with pytest.raises(BackupFailed, match="is closing"):
        back_up(house.settings, disk, is_closing=lambda: True)
    assert [*disk.iterdir()] == [first]
    assert not (house.settings.data_dir / SCRATCH).exists()


def test_what_is_deleted_while_a_backup_is_made_is_not_in_it(house, disk):
    feedback_id, asked = tell(house, f"Your dog is called {SECRET}."), []

    def delete_once() -> bool:
        if not asked:
            house.db.erasures.feedback(feedback_id)
        asked.append(True)
        return False

    made = back_up(house.settings, disk, is_closing=delete_once).file
    assert SECRET.encode() not in made.path.read_bytes()
    assert [*disk.iterdir()] == [made.path]


def test_those_older_than_a_deletion_go_once_a_new_one_is_made_unless_the_settings_say_otherwise(house, disk):
    def settings(prune: bool) -> Settings:
        return Settings(data_dir=house.settings.data_dir, backup={"folder": str(disk), "prune_forgotten": prune})

    feedback_id = tell(house, SECRET)
    old = back_up(house.settings, disk).file.path
    house.db.erasures.feedback(feedback_id)
    kept = make_kept(settings(False), lambda folder: back_up(house.settings, folder)).path
    assert {*disk.iterdir()} == {old, kept}
    new = make_kept(settings(True), lambda folder: back_up(house.settings, folder)).path
    assert old not in disk.iterdir()
    assert new in disk.iterdir()


def test_two_at_once_are_refused_and_what_a_killed_one_left_goes(house, disk):
    house.correct(1)
    device = device_of(house.settings.data_dir)
    leftover = disk / f".lars-agent-{device}-20260101T000000.000Z.tar.tmp"
    leftover.write_text("half")
    (house.settings.data_dir / SCRATCH).mkdir()
    (house.settings.data_dir / SCRATCH / "lars-agent.db").write_text("half")
    with state_held(house.settings.data_dir), pytest.raises(BackupRunning):
        back_up(house.settings, disk)
    made = back_up(house.settings, disk).file.path
    assert [*disk.iterdir()] == [made]


def test_a_folder_that_is_no_good_is_said_in_words(house, tmp_path):
    house.correct(1)
    with pytest.raises(BackupFailed, match="is not there; is its disk connected and mounted"):
        back_up(house.settings, tmp_path / "away")
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupFailed, match="is no folder"):
        back_up(house.settings, tmp_path / "file")
    with pytest.raises(BackupFailed, match="mounted read-only"), disk_named(tmp_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
@pytest.mark.parametrize("lock", [Lock(), Lock((str(pyrage.x25519.Identity.generate().to_public()),))])
def test_a_full_disk_is_said_in_words_and_the_old_one_stays(house, tmp_path, lock):
    house.correct(1)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=300k", "tmpfs"):
        first = back_up(house.settings, tmp_path / "small").file.path
        (tmp_path / "small" / "filler").write_bytes(bytes(100_000))
        with pytest.raises(BackupFailed, match="is full, so no backup was made"):
            back_up(house.settings, tmp_path / "small", lock)
        assert first in (tmp_path / "small").iterdir()
        assert not [path for path in (tmp_path / "small").iterdir() if path.name.startswith(".")]


def test_a_damaged_database_makes_no_backup(house, disk):
    house.correct(200)
    house.close()
    path = house.settings.database_path
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'feedback'").fetchone()[0]
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(Exception, match="restore a backup"):
        back_up(house.settings, disk)
    assert [*disk.iterdir()] == []


def test_a_backup_to_a_key_is_opened_by_it_alone_and_a_damaged_byte_is_refused(house, disk, tmp_path):
    tell(house, SECRET)
    secret, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    made = back_up(house.settings, disk, Lock((str(secret.to_public()),))).file
    data = made.path.read_bytes()
    assert (made.encrypted, made.path.suffix, SECRET.encode() in data) == (True, ".age", False)
    (tmp_path / "key.txt").write_text(f"# created: today\n{secret}\n")
    key = Key(read_identities(tmp_path / "key.txt"))
    for wrong in (Key(), Key([other])):
        with pytest.raises(BackupLocked):
            put_back(tmp_path / "new", made.path, wrong)
    for place in (0, 10, 40, 150, *range(200, len(data), len(data) // 12), len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 1
        made.path.write_bytes(damaged)
        with pytest.raises((BackupDamaged, BackupLocked)), opened(made.path, key, tmp_path) as file:
            Archive(file, "x").check()
    made.path.write_bytes(data)
    put_back(tmp_path / "new", made.path, key)
    assert corrections(tmp_path / "new") == {SECRET}


def test_a_backup_with_a_passphrase_is_opened_by_it_alone(house, disk, tmp_path):
    tell(house, SECRET)
    made = back_up(house.settings, disk, Lock(passphrase="correct horse")).file
    with pytest.raises(BackupLocked, match="is not opened by the passphrase"):
        put_back(tmp_path / "new", made.path, Key(ask=lambda: "wrong"))
    put_back(tmp_path / "new", made.path, Key(ask=lambda: "correct horse"))
    assert corrections(tmp_path / "new") == {SECRET}


def test_a_key_that_is_none_is_refused_without_being_shown():
    secret = str(pyrage.x25519.Identity.generate())
    for text in (secret, "age1nonsense", "ssh-ed25519 AAAA", ""):
        with pytest.raises(ConfigError) as error:
            Lock((text,))
        assert secret not in str(error.value)


def test_those_of_a_wrong_clock_go_first():
    def file(days: int) -> BackupFile:
        return BackupFile(Path(f"/b/{days}"), "d", NOON + timedelta(days=days), 1, False)

    newest, found = file(0), [file(days) for days in (-2, -1, 0, 400)]
    assert [one.path.name for one in outdated(found, newest, 3, None)] == ["400"]
    assert [one.path.name for one in outdated(found, newest, 9, NOON - timedelta(days=1))] == ["-1", "-2"]


def test_a_listing_knows_backups_and_nothing_else(disk):
    for name in (
        "lars-agent-01234567-20261130T120000.000Z.tar",
        "lars-agent-01234567-20261330T120000.000Z.tar",
        "x.tar",
    ):
        (disk / name).write_text("")
    (disk / "lars-agent-01234567-20261201T120000.000Z.tar.age").symlink_to("/etc/passwd")
    assert [one.created for one in backups_in(disk)] == [NOON]
