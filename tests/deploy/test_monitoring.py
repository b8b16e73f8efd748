"""The Grafana board, the alert rules and their page: each metric and label that they name is exported by a daemon."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app, wait_until
from tests.service.house import STANDIN
from tests.test_docs import SETTING, check_command_line, fields_of

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD, ALERTS = DEPLOY / "grafana" / "lars-agent.json", DEPLOY / "prometheus" / "alerts.yml"
OTHERS = {  # what others export, or will: Prometheus itself, and the backup
    "up": {},
    "lars_agent_backup_last_success_timestamp_seconds": {},
}
TARGET = {"job", "instance"}  # labels that Prometheus gives to all
WORDS = {"and", "or", "unless", "by", "on", "bool", "vector"}
STRING, DURATION = re.compile(r'"[^"]*"'), re.compile(r"\[[^\]]*\]")
SELECTOR = re.compile(r"\b([a-z_]\w*)\s*\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")

Exported = Mapping[str, Mapping[str, set[str]]]  # values by label, by sample


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    """All samples of a daemon that has replied, learned, and learns again."""
    folder = tmp_path_factory.mktemp("monitoring")
    settings, release = Settings(data_dir=folder / "data", schedule={"enabled": False}), folder / "release"
    release.touch()
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    with client_of(fake_app(settings, worker_command=(sys.executable, str(STANDIN), "--wait", str(release)))) as client:
        daemon = client.app.state.daemon

        def scrape() -> None:
            for family in text_string_to_metric_families(client.get("/metrics").text):
                for sample in family.samples:
                    found[sample.name]  # also one without labels
                    for label, value in sample.labels.items():
                        found[sample.name][label].add(value)

        wait_until(lambda: client.get("/health").status_code == 200)
        client.post("/generate", json={"inputs": "Hi"})
        for number in range(4):
            asked = {"prompt": f"What is number {number}?", "response": "?", "correction": f"It is {number}{number}."}
            client.post("/feedback", json=asked)
        job_id = client.post("/jobs", json={"profile": "default"}).json()["id"]
        wait_until(lambda: client.get("/info").json()["job"] is None)
        daemon.db.jobs.update(job_id, pauses={"heat": {"count": 1, "seconds": 2.0}})
        scrape()
        release.unlink()
        client.post("/jobs", json={"profile": "default"})
        wait_until(lambda: daemon.worker.pid is not None)
        daemon.worker.pause("user")
        scrape()
        daemon.worker.resume("user")
        release.touch()
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression, with what its labels are shown as."""
    for panel in panels():
        yield from ((target["expr"], target["legendFormat"]) for target in panel["targets"])
    board = json.loads(BOARD.read_text())
    yield from ((one["expr"], "") for one in board["annotations"]["list"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"^label_values\((.*), \w+\)$", r"\1", variable["definition"]), ""
    yield from ((rule["expr"], "") for rule in rules())


def wrong(expression: str, legend: str, exported: Exported) -> list[str]:
    """The metrics, labels and values in the expression that no daemon exports."""
    plain = DURATION.sub("", STRING.sub('""', expression))
    names = set(re.findall(r"\b[a-z_]\w*\b(?!\s*\()", GROUPED.sub("", SELECTOR.sub(r"\1", plain)))) - WORDS
    found = [name for name in names if name not in exported and name not in OTHERS]
    labels = TARGET.union(*(exported.get(name, {}).keys() for name in names))
    for grouped in [*GROUPED.findall(expression), *re.findall(r"\{\{(\w+)\}\}", legend)]:
        found += [label for label in re.findall(r"\w+", grouped) if label not in labels]
    for name, matchers in SELECTOR.findall(expression):
        for label, _, value in MATCHER.findall(matchers):
            known = exported.get(name, {}).get(label, set())
            if label not in TARGET:
                found += [f"{label}={one}" for one in value.split("|") if one not in known]
    return found


def test_every_metric_label_and_value_of_the_board_and_the_rules_is_exported(exported):
    checked = list(expressions())
    assert len(checked) > 40
    assert {expression: names for expression, legend in checked if (names := wrong(expression, legend, exported))} == {}


@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        ("lars_agent_no_such_thing", ""),
        ("rate(lars_agent_replies[5m])", ""),
        ("lars_agent_connections", "{{profile}}"),
        ('lars_agent_resident_bytes{process="browser"}', ""),
        ('lars_agent_alarm_active{kind="disk_full"}', ""),
        ("sum by (colour) (rate(lars_agent_tokens_total[5m]))", ""),
        ("lars_agent_connections > uptime", ""),
    ],
)
def test_the_check_finds_what_is_not_exported(exported, expression, legend):
    assert wrong(expression, legend, exported) != []


def test_the_board_can_be_imported_with_any_prometheus():
    board = json.loads(BOARD.read_text())
    assert board["schemaVersion"] >= 42
    assert "id" not in board  # Grafana gives it
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "job", "instance"]
    assert (
        board["templating"]["list"][0] | {"type": "datasource", "query": "prometheus"} == board["templating"]["list"][0]
    )
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    source = {"type": "prometheus", "uid": "${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert max(x for x, _ in cells) < 24
    for panel in panels():
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "state-timeline"


def test_six_rules_say_what_to_do_with_commands_and_settings_that_exist():
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    assert len(rules()) == 6
    for rule in rules():
        notes = rule["annotations"]
        assert {"summary", "description", "remedy"} == notes.keys()
        assert rule["labels"]["severity"] in ("warning", "critical")
        for command in re.findall(r"`(lars-agent [^`]+)`", notes["remedy"]):
            check_command_line(shlex.split(command)[1:])
        for section, key in SETTING.findall(" ".join(notes.values())):
            if section in sections:
                assert key in fields_of(sections[section])
        assert re.search(r"`[^`]+`", notes["remedy"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here; make rehearse-monitoring fetches it")
def test_promtool_finds_the_rules_right_and_each_fires_when_it_should():
    for command in ("check", "test"):
        file = ALERTS if command == "check" else ALERTS.with_name("alerts_test.yml")
        done = subprocess.run(["promtool", command, "rules", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_test_in_which_it_fires():
    text = ALERTS.with_name("alerts_test.yml").read_text()
    assert {rule["alert"] for rule in rules()} <= set(re.findall(r"\bLarsAgent\w+", text))


def test_the_scrape_example_sends_a_token_and_names_the_job_that_the_rules_ask_for():
    example = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())
    (job,) = example["scrape_configs"]
    assert job["authorization"].keys() == {"credentials_file"}
    assert all(f'job="{job["job_name"]}"' in rule["expr"] for rule in rules())
