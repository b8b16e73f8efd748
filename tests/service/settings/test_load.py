from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from dataclasses import fields
from pathlib import Path

import pytest

from lars_agent.errors import ConfigError
from lars_agent.training.config import TrainConfig
from service.cli.client import Client
from service.process.access_token import write_token
from service.settings import load as module
from service.settings.load import Settings, load_settings
from service.settings.server import Server, url_of


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path) -> Path:
    """A machine without configuration; returns where its system file would be."""
    for variable in [name for name in module.os.environ if name.startswith("LARS_AGENT_") or name == "STATE_DIRECTORY"]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(module, "SYSTEM_FILE", tmp_path / "system.toml")
    monkeypatch.setattr(module, "USER_FILE", tmp_path / "user.toml")
    return tmp_path


def test_later_sources_win(machine, monkeypatch):
    (machine / "system.toml").write_text("[server]\nport = 1\nhost = 'localhost'\nmax_body_bytes = 5\n")
    (machine / "user.toml").write_text("[server]\nport = 2\nmax_body_bytes = 6\n")
    monkeypatch.setenv("LARS_AGENT_SERVER__PORT", "3")
    assert load_settings().server.port == 3
    server = load_settings(overrides={"server": {"port": 4}}).server
    assert (server.port, server.max_body_bytes, server.host) == (4, 6, "localhost")


def test_explicit_file_takes_the_users_place(machine):
    (machine / "user.toml").write_text("[server]\nport = 2\n")
    (machine / "other.toml").write_text("[runtime]\nthreads = 2\n")
    settings = load_settings(machine / "other.toml")
    assert (settings.server.port, settings.runtime.threads) == (8321, 2)


def test_explicit_file_must_exist(machine):
    with pytest.raises(ConfigError, match=r"no configuration file .*gone\.toml"):
        load_settings(machine / "gone.toml")


def test_lists_come_from_the_environment_as_json(monkeypatch):
    monkeypatch.setenv("LARS_AGENT_SERVER__ALLOWED_HOSTS", '["pi.local"]')
    assert load_settings().server.allowed_hosts == ("pi.local",)


def test_aliases_are_a_table_that_the_environment_adds_to(machine, monkeypatch):
    (machine / "user.toml").write_text('[server.model_aliases]\n"gpt-4.1" = "alice@v12"\nGPT = "base"\n')
    monkeypatch.setenv("LARS_AGENT_SERVER__MODEL_ALIASES", '{"gpt-4o": "default"}')
    assert load_settings().server.model_aliases == {"gpt-4.1": "alice@v12", "GPT": "base", "gpt-4o": "default"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1\n", r"unknown setting 'server\.prot' \(in .*user\.toml\)"),
        ("[sever]\nport = 1\n", r"unknown setting 'sever'"),
        ("[lars]\nrnk = 1\n", r"unknown setting 'lars\.rnk' \(in .*user\.toml\)"),
        ("[training]\nhang = 1\n", r"unknown setting 'training\.hang'"),
        ("port = 1\n", r"unknown setting 'port'"),
        ("[server]\nport = 'x'\n", r"server\.port: .* not 'x' \(in .*user\.toml\)"),
        ("[server]\nport = 70000\n", r"server\.port: .*65535, not 70000"),
        ("[server\n", r"user\.toml cannot be read"),
        ("a = " + 100_000 * "[", r"user\.toml cannot be read"),
        ("[lars]\npooling = 'x'\n", r"lars\.pooling: .*not 'x'"),
        (
            "[server.model_aliases]\ngpt-4 = 'gpt 5'\n",
            r"server\.model_aliases: 'gpt-4' stands for 'gpt 5'; give a profile",
        ),
        ("[server.model_aliases]\ndefault = 'alice'\n", r"'default' cannot be an alias"),
        ("[server.model_aliases]\nv2 = 'alice'\n", r"'v2' cannot be an alias"),
        ("[server.model_aliases]\n'x:latest' = 'alice'\n", r"'x:latest' ends in :latest"),
        ("[server.model_aliases]\n'' = 'alice'\n", r"server\.model_aliases"),
        ("[server]\nmodel_aliases = 'gpt-4'\n", r"server\.model_aliases"),
        ("[training]\nlearning_rate = nan\n", r"training\.learning_rate"),
    ],
)
def test_invalid_setting_is_refused_by_name(machine, text, words):
    (machine / "user.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_settings()


@pytest.mark.parametrize("variable", ["LARS_AGENT_PORT", "LARS_AGENT_SERVER__PROT", "LARS_AGENT_SERVR__PORT"])
def test_unknown_environment_variable_is_refused_by_name(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError, match=r"unknown setting '(port|server\.prot|servr)'"):
        load_settings()


def test_secret_is_not_shown(monkeypatch):
    monkeypatch.setenv("LARS_AGENT_SERVER__TOKEN", "hunter2 hunter22")
    assert "hunter2 hunter22" not in repr(load_settings())
    monkeypatch.setenv("LARS_AGENT_SERVER__HOST", "0.0.0.0")
    assert load_settings().server.token.get_secret_value() == "hunter2 hunter22"


@pytest.mark.parametrize("token", ["", "x", "fifteen letters", " " * 40, "  fifteen letters  "])
def test_a_token_that_can_be_guessed_is_refused_with_the_reason_and_not_shown(machine, monkeypatch, token):
    monkeypatch.setenv("LARS_AGENT_SERVER__TOKEN", token)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert re.search(
        r"server\.token: can be guessed.* 16 characters.*openssl.*\(in the environment\)", str(caught.value)
    )
    assert not token.strip() or len(token) < 2 or token.strip() not in str(caught.value)


@pytest.mark.parametrize("token", [" sixteen letters!", "sixteen letters!\n", "sixteen\nletters!!"])
def test_a_token_that_no_header_can_hold_is_refused(machine, monkeypatch, token):
    monkeypatch.setenv("LARS_AGENT_SERVER__TOKEN", token)
    with pytest.raises(ConfigError, match="cannot be sent"):
        load_settings()


SHOW = """
import os, subprocess, sys
from service.settings.load import SettingsSource
source = SettingsSource().take_token()
print(source.load().server.token.get_secret_value(), source.load().server.port)
print(subprocess.run(["env"], capture_output=True, text=True).stdout)
print(open("/proc/self/environ").read())
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LARS_AGENT_SERVER__TOKEN", "a token of many letters"),
        ("lars_agent_server__token", "a token of many letters"),
        ("LARS_AGENT_SERVER", '{"token": "a token of many letters"}'),
    ],
)
def test_no_child_process_is_given_the_token_and_the_daemon_keeps_it(tmp_path, name, value):
    given = {
        "HOME": str(tmp_path),
        "LARS_AGENT_SERVER__PORT": "7",
        name: value,
        "LARS_AGENT_TOKEN": "another, a client's",
    }
    command = [sys.executable, "-c", SHOW]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, env=given, capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == "a token of many letters 7"
    assert "many letters" not in "".join(rest)
    assert "another" not in "".join(rest)
    assert "LARS_AGENT_SERVER__PORT=7" in rest


def test_settings_alone_do_not_read_the_machine(machine, monkeypatch):
    (machine / "user.toml").write_text("[server]\nport = 2\n")
    monkeypatch.setenv("LARS_AGENT_SERVER__PORT", "3")
    assert Settings().server.port == 8321


def test_data_lie_in_the_state_directory_systemd_gives(monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/lars-agent:/other")
    assert Settings().database_path == Path("/var/lib/lars-agent/lars-agent.db")


def test_a_worker_gets_half_of_the_cores_unless_the_settings_say(monkeypatch):
    for cores, threads in ((1, 1), (2, 1), (3, 1), (4, 2)):
        monkeypatch.setattr("service.settings.training.core_count", lambda cores=cores: cores)
        assert Settings().training.worker_threads == threads
    assert Settings(training={"threads": 3}).training.worker_threads == 3


def test_what_is_trained_leaves_out_how_the_worker_is_supervised():
    training = Settings(training={"steps": 7, "threads": 3, "hang_s": 5}).training
    assert training.config == TrainConfig(steps=7)
    assert {field.name for field in fields(training)} - {field.name for field in fields(TrainConfig)} == {
        "threads",
        "hang_s",
        "runner",
        "runner_takes_model",
    }


def test_every_setting_has_a_description():
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "data_dir"}
    silent = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, field in section.__pydantic_fields__.items()
        if not field.description
    ]
    assert silent == []


def test_a_client_on_the_device_need_not_know_the_token_of_others(machine, monkeypatch):
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(machine / "data"))
    (machine / "user.toml").write_text("[server]\nhost = '0.0.0.0'\n")
    client = Client()
    assert (client.url, "Authorization" in client._http.headers) == ("http://127.0.0.1:8321", False)
    (machine / "user.toml").write_text("[server]\nhost = '192.168.1.2'\n")  # called by an address that asks for it
    with pytest.raises(ConfigError, match="there is no token"):
        Client()
    token = write_token(machine / "data" / "token")
    assert Client()._http.headers["Authorization"] == f"Bearer {token}"


@pytest.mark.parametrize(
    ("given", "kept", "host"),
    [
        ("https://lars-agent.local", "https://lars-agent.local", "lars-agent.local"),
        ("HTTPS://Nas.Example:8443/Lars/", "https://nas.example:8443/Lars", "nas.example"),
        ("http://[FD00::1]:80", "http://[fd00::1]:80", "[fd00::1]"),
    ],
)
def test_the_address_for_other_devices_is_allowed_as_a_host(given, kept, host):
    server = Server(external_url=given)
    assert (server.external_urls, host in server.hosts) == ((kept,), True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("external_url = 'lars-agent.local'", "server.external_url: is no address of a web page"),
        ("external_url = 'ftp://nas'", "is no address of a web page"),
        ("external_url = 'https://nas/?x=1'", "is no address of a web page"),
        ("external_url = 'https://'", "is no address of a web page"),
        ("trusted_proxies = ['*']", "server.trusted_proxies.0: is neither an address nor a network"),
        ("trusted_proxies = ['::1', '0.0.0.0/0']", "would let everybody name the address"),
        ("generations_per_minute = -1", "server.generations_per_minute"),
    ],
)
def test_who_may_come_in_is_never_guessed(machine, line, words):
    (machine / "user.toml").write_text(f"[server]\n{line}\n")
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_settings()


def test_a_device_is_called_by_its_own_names_whatever_others_it_has():
    hosts = Server(host="192.0.2.7", allowed_hosts=("Pi.local",)).hosts
    assert hosts == {"localhost", "127.0.0.1", "[::1]", "192.0.2.7", "pi.local"}


def test_the_addresses_of_a_daemon_that_listens_to_others_itself():
    assert Server().external_urls == ()
    assert Server(allowed_hosts=("pi.local",)).external_urls == ()
    names = ("localhost", "pi.local", "[fd00::1]")
    assert Server(host="0.0.0.0", allowed_hosts=names).external_urls == (
        "http://[fd00::1]:8321",
        "http://pi.local:8321",
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
        ("pi.local", "http://pi.local:80"),
    ],
)
def test_the_address_of_a_host_is_one_that_a_browser_takes(host, url):
    assert url_of(host, 80) == url


def test_changes_of_a_service_that_are_not_ours_to_read_are_none(monkeypatch, tmp_path):
    def read(path: Path) -> bytes:
        if path.name == module.CHANGES_FILE:
            raise PermissionError(13, "Permission denied", str(path))
        raise FileNotFoundError(2, "No such file", str(path))

    monkeypatch.setattr(module, "read_plain", read)
    assert load_settings().server.port == 8321


@pytest.mark.parametrize("name", ["user.toml", "data/settings.json"])
@pytest.mark.parametrize("kind", ["pipe", "deep", "folder"])
def test_a_file_that_cannot_be_read_is_named_at_once(machine, monkeypatch, name, kind):
    monkeypatch.setenv("LARS_AGENT_DATA_DIR", str(machine / "data"))
    path = machine / name
    path.parent.mkdir(exist_ok=True)
    if kind == "deep":
        path.write_text("[" * 100_000 if path.suffix == ".json" else f"x = {'[' * 100_000}")
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(ConfigError, match=f"{path.name} cannot be read"):
        load_settings()


def numbers() -> list[str]:
    """Every setting that is a number."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "data_dir"}
    return [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, field in section.__pydantic_fields__.items()
        if {int, float} & {field.annotation, *typing.get_args(field.annotation)}
    ]


@pytest.mark.parametrize("key", numbers())
def test_a_number_beyond_all_sense_is_refused_with_its_key_and_the_range(machine, key):
    section, name = key.split(".")
    for value in (10**30, -(10**30), "nan", "inf"):
        with pytest.raises(ConfigError, match=rf"{key}: Input should be .*\(in the command line\)"):
            load_settings(overrides={section: {name: value}})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lars.rank", 10**9, "less than or equal to 4096"),
        ("lars.target_modules", "(", "no regular expression"),
        ("training.threads", 100_000, "less than or equal to 1024"),
        ("runtime.threads", -1, "greater than or equal to 0"),
        ("memory.budget_bytes", 1, "greater than or equal to 67108864"),
        ("training.batch_size", 10**6, "less than or equal to 4096"),
        ("server.port", 65536, "less than or equal to 65535"),
        ("idle.quiet_s", -1, "greater than or equal to 0"),
    ],
)
def test_absurd_settings_are_refused_with_their_reason(machine, key, value, words):
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=f"{key}: .*{words}"):
        load_settings(overrides={section: {name: value}})
