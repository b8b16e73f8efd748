"""Settings over the API: what there is, and changes that hold now, at the next start, or not at all."""

from __future__ import annotations

import json

import pytest

from service.settings import load as module
from service.settings.load import SettingsSource
from tests.service.api import conftest as api


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose user has a configuration file; returns where the daemon's settings come from."""
    for variable in [name for name in module.os.environ if name.startswith("LARS_AGENT_") or name == "STATE_DIRECTORY"]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(module, "SYSTEM_FILE", tmp_path / "none.toml")
    config = tmp_path / "config.toml"
    config.write_text(
        f'data_dir = "{tmp_path / "data"}"\n# At night.\n[schedule]\nenabled = false\ncron = "0 2 * * *"\n'
    )
    return SettingsSource(config)


@pytest.fixture
def client(start, machine):
    return start(machine.load(), source=machine)


def setting(client, key: str) -> dict:
    return next(one for one in client.get("/settings").json()["settings"] if one["key"] == key)


def test_every_setting_has_value_default_meaning_schema_and_origin(client, machine):
    found = client.get("/settings").json()["settings"]
    assert len(found) == len({one["key"] for one in found}) > 80
    assert all(one["description"] and one["value_schema"] for one in found)
    cron = setting(client, "schedule.cron")
    assert (cron["value"], cron["default"], cron["applies"], cron["locked"]) == ("0 2 * * *", "0 3 * * *", "now", None)
    assert cron["origin"] == str(machine.config_file)
    epochs = setting(client, "training.epochs")
    assert (epochs["value"], epochs["origin"], epochs["value_schema"]) == (
        24,
        None,
        {"maximum": 100000, "minimum": 1, "type": "integer"},
    )
    assert setting(client, "model.dtype")["applies"] == "restart"
    assert "int4" in setting(client, "model.dtype")["value_schema"]["enum"]


def test_a_change_holds_at_once_and_after_a_restart_and_the_file_of_the_user_stays(client, machine, start):
    before = machine.config_file.read_text()
    answer = client.patch("/settings", json={"schedule.cron": "0 4 * * *", "training.epochs": 12})
    assert answer.status_code == 200
    assert answer.json() == client.get("/settings").json()
    daemon = client.app.state.daemon
    assert (daemon.settings.schedule.cron, daemon.settings.training.epochs, daemon.notices) == ("0 4 * * *", 12, [])
    assert (daemon.supervisor._context.settings.training.epochs, setting(client, "training.epochs")["origin"]) == (
        12,
        "the settings page",
    )
    assert machine.config_file.read_text() == before
    assert machine.load() == daemon.settings
    answer = client.patch("/settings", json={"schedule.cron": None, "training.epochs": None})
    assert answer.status_code == 200
    assert (daemon.settings.schedule.cron, daemon.settings.training.epochs) == ("0 2 * * *", 24)
    assert json.loads((daemon.settings.data_dir / module.CHANGES_FILE).read_text()) == {}


def test_a_change_that_needs_a_start_is_kept_and_said_to_wait(client, machine):
    client.patch("/settings", json={"model.dtype": "int8", "memory.budget_bytes": 10**9})
    assert client.get("/info").json()["notices"] == ["takes effect at the next start: model.dtype"]
    assert [(setting(client, key)["value"], setting(client, key)["is_waiting"]) for key in ("model.dtype",)] == [
        ("int8", True)
    ]
    assert not setting(client, "memory.budget_bytes")["is_waiting"]
    assert machine.load().model.dtype == "int8"


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"training.epochs": 0}, "training.epochs", "greater than or equal to 1"),
        ({"training.epochs": "many"}, "training.epochs", "valid integer"),
        ({"training.epochs": "5"}, "training.epochs", "valid integer"),
        ({"training.epochs": True}, "training.epochs", "valid integer"),
        ({"schedule.enabled": 1}, "schedule.enabled", "valid boolean"),
        ({"recall.profiles": {"alice": "no"}}, "recall.profiles", "valid object"),
        ({"schedule.cron": "at night"}, "schedule.cron", "schedule.cron"),
        ({"schedule.cron": "0 4 * * *", "training.batch_size": -1}, "training.batch_size", "greater"),
        ({"training.colour": 1}, "training.colour", "is no setting"),
        ({"training": {"epochs": 1}}, "training", "is no setting"),
        ({"server.host": "0.0.0.0"}, "server.host", "configuration file"),
        ({"server.token": None}, "server.token", "configuration file"),
        ({"data_dir": "/tmp"}, "data_dir", "configuration file"),
        ({"x" * 500: 1}, "x" * 100, "is no setting"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(client, machine, changes, param, words):
    before = client.app.state.daemon.settings
    answer = client.patch("/settings", json=changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert words in answer.json()["error"]["message"]
    assert client.app.state.daemon.settings == before == machine.load()


@pytest.mark.parametrize("key", ["training.runner", "training.runner_takes_model"])
def test_where_jobs_are_trained_is_not_changed_in_the_pages(client, key):
    locked = setting(client, key)["locked"]
    assert "configuration file" in locked
    value = {"training.runner": "ssh://elsewhere", "training.runner_takes_model": True}[key]
    answer = client.patch("/settings", json={"training.epochs": 5, key: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, key)
    assert client.app.state.daemon.settings.training.runner == "local"
    assert setting(client, "training.epochs")["locked"] is None  # the rest of the section is the pages' own


def test_a_whole_number_may_be_written_with_a_point_or_an_exponent(client):
    assert client.patch("/settings", json={"memory.budget_bytes": 2e9, "training.epochs": 3.0}).status_code == 200
    assert client.app.state.daemon.settings.memory.budget_bytes == 2_000_000_000


def test_a_secret_is_not_shown_and_what_the_environment_sets_is_locked(start, machine, monkeypatch):
    monkeypatch.setenv("LARS_AGENT_SERVER__TOKEN", "hunter2 hunter22")
    monkeypatch.setenv("LARS_AGENT_TRAINING__EPOCHS", "3")
    client = start(machine.load(), source=machine)
    client.headers["Authorization"] = "Bearer hunter2 hunter22"
    answer = client.get("/settings")
    assert "hunter2 hunter22" not in answer.text
    assert setting(client, "server.token")["value"] is True
    assert setting(client, "training.epochs")["locked"] == "the environment sets it"
    assert client.patch("/settings", json={"training.epochs": 4}).status_code == 422
    assert client.app.state.daemon.settings.training.epochs == 3


def test_a_change_that_cannot_be_kept_does_not_hold_either(client, monkeypatch):
    from lars_agent.errors import DiskFull
    from service import reload

    def full(*_: object) -> None:
        raise DiskFull("no room on the disk")

    monkeypatch.setattr(reload, "write_changes", full)
    assert client.patch("/settings", json={"training.epochs": 12}).status_code == 507
    assert client.app.state.daemon.settings.training.epochs == 24


def test_a_damaged_file_of_changes_says_what_to_do(client, machine):
    (client.app.state.daemon.settings.data_dir / module.CHANGES_FILE).write_text("{")
    with pytest.raises(module.ConfigError, match="delete it to undo"):
        machine.load()
    answer = client.get("/settings")
    assert (answer.status_code, "delete it" in answer.json()["error"]["message"]) == (409, True)


def test_without_a_source_of_their_own_settings_change_all_the_same(start, settings):
    client = start(settings)
    api.wait_until(lambda: client.get("/health").status_code == 200)
    assert client.patch("/settings", json={"recall.enabled": False}).status_code == 200
    assert client.app.state.daemon.settings.recall.enabled is False
