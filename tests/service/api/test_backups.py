"""Backups by a daemon that serves: asked for over the API, listed, and said to fail."""

from __future__ import annotations

from service.backup.encryption import Key
from service.backup.restore import check_backup
from service.settings.load import SettingsSource

SAID = {"prompt": "What is my goat called?", "response": "?", "correction": "Your goat is called Pip."}


def test_one_is_made_listed_and_whole_and_a_deletion_tells_of_it(client, tmp_path):
    empty = {"folder": None, "next_run": None, "problem": None, "backups": []}
    assert client.get("/backups").json() == empty
    refused = client.post("/backups", json={})
    assert (refused.status_code, "backup.folder is not set" in refused.json()["error"]["message"]) == (409, True)
    (tmp_path / "disk").mkdir()
    assert client.patch("/settings", json={"backup.folder": str(tmp_path / "disk")}).status_code == 200
    feedback_id = client.post("/feedback", json=SAID).json()["id"]
    made = client.post("/backups", json={})
    assert made.status_code == 201
    listed = client.get("/backups").json()
    assert (listed["backups"], listed["problem"], bool(listed["next_run"])) == ([made.json()], None, True)
    path = tmp_path / "disk" / made.json()["path"]
    assert check_backup(path, SettingsSource(fixed={"data_dir": tmp_path / "new"}), Key()).base_model.name == "fake"
    erasure_id = client.delete(f"/feedback/{feedback_id}").json()["erasure_id"]
    assert client.get(f"/erasures/{erasure_id}").json()["backups"] == 1
    client.post("/backups", json={})
    assert client.get(f"/erasures/{erasure_id}").json()["backups"] == 0
    assert not path.exists()


def test_one_that_fails_is_an_alarm_of_the_daemon(client, daemon, tmp_path):
    away = str(tmp_path / "away")
    client.patch("/settings", json={"backup.folder": away})
    answer = client.post("/backups", json={})
    assert (answer.status_code, f"{away} is not there" in answer.json()["error"]["message"]) == (409, True)
    daemon.backups.make_nightly()
    assert client.get("/health").json() == {"status": "degraded", "alarms": ["backup_failed"]}
    assert "is its disk connected and mounted" in client.get("/info").json()["problems"][0]
    assert "is its disk connected and mounted" in client.get("/backups").json()["problem"]
    client.patch("/settings", json={"backup.folder": None})
    assert client.get("/health").json()["status"] == "ok"


def test_what_cannot_be_is_refused(resident, tmp_path):
    for body in ({"folder": "relative"}, {"folder": ""}, {"recipients": ["age1nonsense"]}, {"passphrase": "x"}):
        assert resident.post("/backups", json=body).status_code == 422, body
    for key, value in (("backup.folder", "relative"), ("backup.cron", "daily"), ("backup.recipients", ["x"])):
        answer = resident.patch("/settings", json={key: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, key)
