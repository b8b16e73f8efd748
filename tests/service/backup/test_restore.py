"""Restoring: the same state comes back, whatever does not fit is refused, and what was forgotten stays forgotten."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lars_agent.example import Message
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import Generation, GenerationRequest
from lars_agent.store.adapters import AdapterStore
from service.backup.encryption import Key
from service.backup.errors import BackupDamaged, BackupRefused
from service.backup.restore import check_backup
from service.backup.swap import MAKING, replaced_states
from service.db.records import InteractionRecord, NewFeedback, now_utc
from service.process.data_lock import DataLock
from tests.runtime.conftest import opened, publish  # noqa: F401  (a fixture)
from tests.service.backup.conftest import back_up, corrections, install, put_back, source_of
from tests.service.backup.test_make import DB, packed
from tests.service.house import House
from tests.service.housekeeping.test_housekeeper import keeper_of


def asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def reply(engine: Engine, messages: tuple[Message, ...]) -> Generation:
    return engine.submit(GenerationRequest(messages, max_new_tokens=12)).result(60.0)


SECRET = "Zyxolotl Quendorp"


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a state, but for those of a database that is open and the lock's text."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("lars-agent.db", "daemon"))
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_everything_is_back_in_an_empty_folder(house, disk, tmp_path):
    ids = house.correct(3)
    house.publish(learned=ids[:1])
    house.publish(learned=ids)
    house.publish("alice")
    (house.settings.data_dir / "settings.json").write_text('{"idle": {"on_battery": true}, "server": {"port": 1}}')
    job = house.db.jobs.add("default", "manual")
    made = back_up(house.settings, disk).file
    done = put_back(tmp_path / "new", made.path)
    again = House(tmp_path / "new")
    assert (done.replaced, done.forgotten, done.versions, done.missing_model) == (None, 0, {}, None)
    assert {row.id for row in again.db.feedback.each()} == {*ids}
    assert {profile: again.store.active(profile) for profile in again.store.profiles()} == {"alice": 1, "default": 2}
    assert again.store.parent("default") == 1
    assert again.store.problems("default", "a" * 64) == {}
    assert json.loads((tmp_path / "new" / "settings.json").read_text()) == {"idle": {"on_battery": True}}
    assert again.db.jobs.get(job.id).status == "cancelled"
    assert again.publish() == 3
    again.close()
    assert not (tmp_path / "new" / MAKING).exists()
    assert (tmp_path / "new" / "lars-agent.db").stat().st_mode & 0o077 == 0


def test_replies_are_the_same_token_for_token_in_a_wiped_folder(house, disk, tmp_path, opened):  # noqa: F811
    for seed in (1, 2):
        house.store.activate("default", publish(house.store, opened, tmp_path, seed))

    def replies() -> list[tuple[int, ...]]:
        engine = Engine(opened, house.store, threads=1)
        try:
            engine.swap("default", house.store.active("default"))
            return [tuple(reply(engine, messages=asked(text)).token_ids) for text in ("Hello?", "Who is Mara?")]
        finally:
            engine.close()

    before = replies()
    made = back_up(house.settings, disk).file
    house.close()
    shutil.rmtree(house.settings.data_dir)
    put_back(house.settings.data_dir, made.path)
    assert replies() == before
    house.store.activate("default", house.store.parent("default"))
    assert replies() != before


def test_the_state_before_lies_beside_and_goes_when_something_is_forgotten(house, disk):
    house.correct(1)
    made = back_up(house.settings, disk).file
    new = NewFeedback(messages=({"role": "user", "content": "Who?"},), response="?", correction=SECRET)
    house.db.feedback.add(new)
    version = house.publish()
    house.close()
    data = house.settings.data_dir
    done = put_back(data, made.path)
    assert corrections(data) == {"It is 0."}
    assert corrections(done.replaced) == {"It is 0.", SECRET}
    assert AdapterStore(done.replaced / "adapters").active("default") == version
    assert done.replaced.parent.parent == data
    later = House(data)
    assert later.publish() == version + 1
    later.db.erasures.feedback(later.correct(1)[0])
    keeper_of(later).forget()
    later.close()
    assert replaced_states(data) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "999.0"}, "made by lars-agent 999.0"),
        ({"schema": "9999"}, "has schema '9999'"),
        ({"format": 2, "more": []}, "has format 2"),
    ],
)
def test_what_a_newer_lars_agent_made_is_refused(house, tmp_path, changes, words):
    house.close()
    (tmp_path / "new.tar").write_bytes(packed(DB, **changes))
    before = contents(house.settings.data_dir)
    with pytest.raises(BackupRefused, match=words):
        put_back(house.settings.data_dir, tmp_path / "new.tar")
    assert contents(house.settings.data_dir) == before


def test_another_base_model_is_refused_and_a_missing_one_is_named(house, disk, tmp_path):
    house.publish()
    install(house.settings.data_dir, "tiny", "a" * 64)
    made = back_up(house.settings, disk).file
    install(tmp_path / "other", "large", "c" * 64)
    with pytest.raises(BackupRefused, match="lars-agent model pull org/tiny, lars-agent model use tiny"):
        put_back(tmp_path / "other", made.path)
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"models", "daemon.lock"}
    with pytest.raises(BackupRefused, match="org/tiny"):
        check_backup(made.path, source_of(tmp_path / "other"), Key())
    assert put_back(tmp_path / "new", made.path).missing_model == "org/tiny"


def test_nothing_is_restored_under_a_running_daemon(house, disk):
    house.correct(1)
    made = back_up(house.settings, disk).file
    lock = DataLock(house.settings.data_dir)
    with pytest.raises(BackupRefused, match="nothing is restored under it; stop it first"):
        put_back(house.settings.data_dir, made.path)
    lock.release()
    assert check_backup(made.path, source_of(house.settings.data_dir), Key()).files


def test_settings_that_do_not_hold_here_are_refused(house, disk):
    (house.settings.data_dir / "settings.json").write_text('{"idle": {"gone": 1}}')
    made = back_up(house.settings, disk).file
    with pytest.raises(BackupRefused, match=r"unknown setting 'idle.gone'"):
        put_back(house.settings.data_dir / "new", made.path)


def test_an_adapter_that_is_not_what_was_published_is_refused(house, disk, tmp_path, monkeypatch):
    house.publish()
    monkeypatch.setattr(AdapterStore, "verify", lambda self, profile, version, base: self.folder(profile, version))
    (house.store.folder("default", 1) / "adapter_model.safetensors").write_text("other")
    made = back_up(house.settings, disk).file
    monkeypatch.undo()
    with pytest.raises(BackupDamaged, match="is damaged: its sha256"):
        put_back(tmp_path / "new", made.path)


def interaction(house: House, text: str, profile: str = "default") -> str:
    record = InteractionRecord(
        f"i-{text}", now_utc(), profile, ({"role": "user", "content": text},), {}, "ok", None, "stop", 1, 1, None
    )
    house.db.interactions.add(record)
    return record.id


def test_what_was_forgotten_since_does_not_come_back_from_any_backup(house, disk):
    data, ids = house.settings.data_dir, house.correct(3)
    house.publish(learned=ids[:1])
    house.publish(learned=ids[:2])
    house.publish("bob", learned=house.correct(1, "bob"))
    said, _ = interaction(house, SECRET), interaction(house, "bob says", "bob")
    first = back_up(house.settings, disk).file
    late = house.correct(1)[0]
    second = back_up(house.settings, disk).file
    erased = [house.db.erasures.feedback(ids[1]), house.db.erasures.interaction(said), house.db.erasures.profile("bob")]
    erased.append(house.db.erasures.feedback(late))
    house.close()
    for made, left in ((first, {ids[0], ids[2]}), (second, {ids[0], ids[2]}), (first, {ids[0], ids[2]})):
        done = put_back(data, made.path)
        again = House(data)
        assert {row.id for row in again.db.feedback.each()} == left
        assert [row.id for row in again.db.interactions.list()] == []
        assert done.versions == {"bob": [1], "default": [2]}
        assert (again.store.active("default"), again.store.active("bob")) == (1, None)
        assert not (data / "adapters" / "default" / "v0002").exists()
        assert {one.id for one in erased} <= {one.id for one in again.db.erasures.list()}
        recalled = again.db.recall.search("default", "What is the number of house 1?", 9).corrections
        assert ids[1] not in {one.feedback_id for one in recalled}
        again.close()
        assert SECRET.encode() not in (data / "lars-agent.db").read_bytes()


def test_a_correction_that_was_told_again_without_it_is_told_again_from_the_backup(house, disk):
    said = f"Your dog is called {SECRET}."
    forgotten = house.db.feedback.add(
        NewFeedback(messages=({"role": "user", "content": "My dog?"},), response="?", correction=said)
    )[0].id
    user, dog, cat = (
        {"role": role, "content": text} for role, text in (("user", "A"), ("assistant", said), ("user", "My cat?"))
    )
    house.db.feedback.add(NewFeedback(messages=(user, dog, cat), response="?", correction="Tom."))
    made = back_up(house.settings, disk).file
    house.db.erasures.feedback(forgotten)
    house.close()
    assert put_back(house.settings.data_dir, made.path).forgotten == 2
    assert corrections(house.settings.data_dir) == {"Tom."}
    assert SECRET.encode() not in house.settings.database_path.read_bytes()


def test_what_a_state_from_before_the_digests_had_forgotten_stays_forgotten(house, disk):
    ids = house.correct(2)
    made = back_up(house.settings, disk).file
    house.db.erasures.feedback(ids[0])
    house.close()
    with closing(sqlite3.connect(house.settings.database_path)) as connection:
        connection.execute("DROP TABLE erased")
        connection.execute("UPDATE alembic_version SET version_num = '0008'")
        connection.commit()
    assert put_back(house.settings.data_dir, made.path).forgotten == 1
    assert corrections(house.settings.data_dir) == {"It is 1."}
    assert put_back(house.settings.data_dir, made.path).forgotten == 1


def test_a_state_whose_erasures_cannot_be_read_is_replaced_only_if_told_to(house, disk):
    house.correct(1)
    made = back_up(house.settings, disk).file
    house.close()
    house.settings.database_path.write_bytes(b"no database")
    before = contents(house.settings.data_dir)
    with pytest.raises(BackupRefused, match="--ignore-erasures"):
        put_back(house.settings.data_dir, made.path)
    assert contents(house.settings.data_dir) == before
    put_back(house.settings.data_dir, made.path, ignore_erasures=True)
    assert corrections(house.settings.data_dir) == {"It is 0."}


def test_a_damaged_backup_changes_nothing(house, disk):
    house.correct(1)
    made = back_up(house.settings, disk).file
    house.close()
    data = bytearray(made.path.read_bytes())
    data[-3000] ^= 1
    made.path.write_bytes(data)
    before = contents(house.settings.data_dir)
    for action in (
        lambda: put_back(house.settings.data_dir, made.path),
        lambda: check_backup(made.path, source_of(house.settings.data_dir), Key()),
    ):
        with pytest.raises(BackupDamaged):
            action()
    assert contents(house.settings.data_dir) == before
    with pytest.raises(BackupRefused, match="cannot be read: No such file"):
        put_back(house.settings.data_dir, disk / "none.tar")
