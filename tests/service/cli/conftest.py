"""Commands typed in this process, and a daemon that they reach over HTTP: a real one but for its model and worker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import structlog

from service.cli.main import main
from service.settings.load import Settings
from tests.service.api.conftest import fake_app, wait_until
from tests.service.dashboard.conftest import served
from tests.service.house import STANDIN


@dataclass(frozen=True)
class Typed:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


def typed(*arguments: str, stdin: str = "") -> Typed:
    """Run a command as from the shell, without a terminal."""
    out, err, code, umask = StringIO(), StringIO(), 0, os.umask(0)
    try:
        with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "stdin", StringIO(stdin)):
            main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os.umask(umask)
    return Typed(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Device:
    """A device with a daemon: its address, its data folder, and the file that lets the worker come to an end."""

    url: str
    data: Path
    release: Path
    daemon: Any

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}").json()

    def say(self, text: str, profile: str = "default") -> str:
        """Have the model reply; return the id of the interaction."""
        body = {"inputs": text, "parameters": {"adapter_id": profile}}
        return str(httpx.post(f"{self.url}generate", json=body).json()["interaction_id"])

    def idle(self) -> None:
        """Wait until no job is at work."""
        wait_until(lambda: self.get("info")["job"] is None)


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """The daemon in this process logs elsewhere than to the commands' standard output."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def device(tmp_path_factory, quiet) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("device")
    settings, release = Settings(data_dir=folder / "data", schedule={"enabled": False}), folder / "release"
    app = fake_app(settings, worker_command=(sys.executable, str(STANDIN), "--wait", str(release)))
    with served(app) as url, pytest.MonkeyPatch.context() as environment:
        environment.setenv("LARS_AGENT_URL", url)
        environment.setenv("LARS_AGENT_DATA_DIR", str(folder / "data"))
        environment.setenv("HOME", str(folder))
        wait_until(lambda: httpx.get(f"{url}health").status_code == 200)
        yield Device(url, folder / "data", release, app.state.daemon)
        release.touch()


@pytest.fixture
def run() -> Callable[..., Typed]:
    return typed
