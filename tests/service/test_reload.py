"""Reloaded settings: which apply at once, which at the next start, and that a bad file changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lars_agent.errors import ConfigError
from service.reload import reload, renewed
from service.settings.load import Settings
from tests.service.api.conftest import fake_app

CURRENT = Settings(data_dir="here", schedule={"enabled": False})


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"enabled": True, "cron": "0 4 * * *"}},
        {"training": {"steps": 3}},
        {"lars": {"rank": 4}},
        {"gate": {"min_reply_gain": 0.5}},
        {"curation": {"max_chars": 99}},
        {"memory": {"budget_bytes": 10**9}},
        {"idle": {"quiet_s": 1.0}},
        {"runtime": {"keep_alive_s": 60.0}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_live_settings_apply_while_the_daemon_runs(changes):
    wanted = Settings(**{"data_dir": "here", **changes})
    assert renewed(CURRENT, wanted) == (wanted, [])


def test_fixed_settings_are_kept_and_their_new_values_reported():
    server = {"port": 1, "token": "open sesame 1001"}
    model = {"name": "other", "dtype": "int8"}
    runtime = {
        "threads": 3,
        "queue_size": 1,
        "parallel": 1,
        "prefix_cache_bytes": 0,
        "deadline_s": 1,
        "keep_alive_s": 5,
    }
    wanted = Settings(data_dir="there", server=server, model=model, runtime=runtime, training={"steps": 3})
    settings, waiting = renewed(CURRENT, wanted)
    kept = CURRENT.runtime.model_copy(update={"keep_alive_s": 5.0})
    assert (settings.data_dir, settings.server, settings.model) == (CURRENT.data_dir, CURRENT.server, CURRENT.model)
    assert (settings.runtime, settings.training.steps) == (kept, 3)
    runtime_keys = ["deadline_s", "parallel", "prefix_cache_bytes", "queue_size", "threads"]
    assert sorted(waiting) == sorted(
        [
            "data_dir",
            "model.dtype",
            "model.name",
            "server.port",
            "server.token",
            *(f"runtime.{k}" for k in runtime_keys),
        ]
    )


@pytest.fixture
def daemon(tmp_path):
    daemon = fake_app(Settings(data_dir=tmp_path, schedule={"enabled": False})).state.daemon
    yield daemon
    daemon.close()


def test_every_component_applies_the_new_settings(daemon):
    before = daemon.settings
    wanted = before.model_copy(
        update={
            "schedule": before.schedule.model_copy(update={"enabled": True}),
            "training": replace(before.training, steps=3),
            "server": before.server.model_copy(update={"port": 1}),
        }
    )
    reload(daemon, lambda: wanted)
    assert daemon.settings.training.steps == daemon.supervisor._context.settings.training.steps == 3
    assert daemon.next_run() is not None
    assert daemon.notices == ["takes effect at the next start: server.port"]
    reload(daemon, lambda: before)
    assert (daemon.next_run(), daemon.notices, daemon.problems()) == (None, [], [])


def test_invalid_settings_change_nothing(daemon):
    def refuse() -> Settings:
        raise ConfigError("unknown setting 'colour' (in config.toml)")

    before = daemon.settings
    reload(daemon, refuse)
    assert daemon.settings is before
    assert daemon.notices == ["the settings stay as they were: unknown setting 'colour' (in config.toml)"]
    bad = before.model_copy(update={"schedule": before.schedule.model_copy(update={"enabled": True, "cron": "never"})})
    reload(daemon, lambda: bad)
    assert daemon.settings is before
    assert daemon.next_run() is None
    assert "never" in daemon.notices[0]


def test_unexpected_error_while_reloading_leaves_the_daemon_running(daemon):
    before = daemon.settings
    reload(daemon, lambda: 1 / 0)
    assert daemon.settings is before
    assert "ZeroDivisionError" in daemon.notices[0]
