"""Findings of the doctor."""

from __future__ import annotations

import json
import os
import socket

import httpx
import pytest
import typer
from typer.testing import CliRunner

from lars_agent.errors import ConfigError
from service.cli import model
from service.cli.doctor import doctor, examine
from service.settings.load import Settings
from tests.service.api.conftest import fake_app, wait_until
from tests.service.dashboard.conftest import served

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def device(tmp_path, monkeypatch):
    """A device on which nothing is installed and no daemon runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LARS_AGENT_SERVER__PORT", str(port))
    monkeypatch.setenv("LARS_AGENT_MEMORY__BUDGET_BYTES", str(2**26))
    return tmp_path


def findings():
    return {finding.name: finding for finding in examine()}


def test_missing_model_and_daemon_are_reported_with_the_command_to_run() -> None:
    found = findings()
    assert list(found) == ["settings", "disk", "access", "memory", "model", "backup", "daemon"]
    assert "lars-agent model pull default" in found["model"].words
    assert "lars-agent serve" in found["daemon"].words
    assert not found["model"].good
    assert not found["daemon"].good


def test_a_budget_larger_than_the_device_is_wrong(monkeypatch) -> None:
    monkeypatch.setenv("LARS_AGENT_MEMORY__BUDGET_BYTES", str(2**50))
    assert "lower it" in findings()["memory"].words


def test_settings_that_cannot_be_read_are_the_only_finding(monkeypatch) -> None:
    monkeypatch.setenv("LARS_AGENT_SERVER__PORT", "nowhere")
    found = findings()
    assert list(found) == ["settings"]
    assert "port" in found["settings"].words


def test_doctor_changes_nothing_on_the_disk(device) -> None:
    findings()
    assert list(device.iterdir()) == []


@pytest.mark.parametrize("arguments", [["pull", "default"], ["use", "m"]])
def test_root_writes_no_model_that_the_owner_of_the_folder_could_not_read(device, monkeypatch, arguments) -> None:
    (device / "data").mkdir()
    if os.geteuid() == 0:
        os.chown(device / "data", 12345, -1)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    result = CliRunner().invoke(model.app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "sudo -u" in str(result.exception)
    assert list((device / "data").iterdir()) == []


def test_something_wrong_exits_1_and_json_lists_all() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 1
    assert {"name", "good", "words"} == set(json.loads(result.stdout)[0])
    assert "WRONG daemon" in CliRunner().invoke(app, []).stdout


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_doctor_asks_the_daemon_at_the_address_that_is_given(monkeypatch, how) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    if how == "variable":
        monkeypatch.setenv("LARS_AGENT_URL", url)
    found = CliRunner().invoke(app, ["--json", *(["--url", url] if how == "option" else [])])
    assert url in json.loads(found.stdout)[-1]["words"]


def test_a_daemon_that_answers_is_found_by_its_address(tmp_path) -> None:
    with served(fake_app(Settings(data_dir=tmp_path / "other", schedule={"enabled": False}))) as url:
        wait_until(lambda: httpx.get(f"{url}health").status_code == 200)
        finding = list(examine(url))[-1]
    assert (finding.good, finding.words) == (True, f"answers at {url}")
