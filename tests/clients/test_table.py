"""The table of clients in docs/clients.md: each one's own package, from PyPI or npm, against a real daemon.

`make .venv/.clients` installs them, apart from lars-agent: no client decides which libraries the daemon has.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.default_model import default_daemon

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / ".venv" / "clients"
PAGE = HERE.parents[1] / "docs" / "clients.md"
SETTINGS = {"runtime__threads": "1", "schedule__enabled": "false"}
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1,localhost"}
LIMIT_S = 300
ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.MULTILINE)


def table() -> dict[str, set[str]]:
    """For each client of the page what it is said to do: the names of the columns with a tick."""
    text = PAGE.read_text(encoding="utf-8")
    header = re.search(r"^\| Name \|(.*)\|$", text, re.MULTILINE)
    assert header
    columns = [cell.strip().lower() for cell in header[1].split("|")]
    return {
        name: {column for column, cell in zip(columns, cells.split("|"), strict=True) if cell.strip() == "✓"}
        for name, cells in ROW.findall(text)
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """What each client got, by its name. The clients of a language share a process: some take ten seconds to import."""
    if not INSTALLED.exists() and not os.environ.get("CI"):
        pytest.skip("make .venv/.clients installs them")
    folder = tmp_path_factory.mktemp("clients")
    shutil.copy(HERE / "node_clients.mjs", INSTALLED)  # beside the packages, where node looks for them
    commands = [[INSTALLED / "bin" / "python", HERE / "python_clients.py"], ["node", INSTALLED / "node_clients.mjs"]]
    with default_daemon(tmp_path_factory.mktemp("state"), SETTINGS) as running:
        yield {name: got for command in commands for name, got in output(command, running.url, folder).items()}


def output(command: list[Any], url: str, folder: Path) -> dict[str, Any]:
    environment = os.environ | QUIET | {"HOME": str(folder)}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": LIMIT_S}
    done = subprocess.run([*map(str, command), url], check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", table())
def test_a_client_does_what_the_table_says(said, name) -> None:
    found = said[name]
    assert "error" not in found, found["error"]
    assert {key for key in found if key not in BESIDES} == table()[name]
    for key, value in found.items():
        assert CHECKS[key](value, found), (key, value)


def _is_a_city(value: str, found: dict[str, Any]) -> bool:
    return isinstance(json.loads(value)["name"], str)


CHECKS = {
    "chat": lambda value, found: "Paris" in value,
    "streaming": lambda value, found: value == found["chat"],
    "again": lambda value, found: bool(value.strip()),
    "tools": lambda value, found: value == "find_city",
    "structured output": _is_a_city,
    "native": _is_a_city,
    "embeddings": lambda value, found: len(value) == 2 and value[0] == value[1] > 0,
    "responses": lambda value, found: "Paris" in value,
    "models": lambda value, found: {"default", "base"} <= set(value),
    "text generation": lambda value, found: len(set(value[:2])) == 1 and value[0] and value[2] > 0,
    "offered": lambda value, found: value is True,
}
BESIDES = {"again", "models", "native", "offered"}
