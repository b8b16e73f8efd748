"""Reload the settings while the daemon runs; some apply at once, the others at the next start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from lars_agent.errors import LarsError
from service.daemon import Daemon
from service.settings.load import Settings, write_changes

log = structlog.get_logger(__name__)

FIXED = ("data_dir", "server", "model")  # what the process is built on
LIVE_RUNTIME = ("keep_alive_s",)  # the rest of `runtime` belongs to the process that generates


def reload(daemon: Daemon, load: Callable[[], Settings]) -> None:
    """Apply the settings that `load` reads, or keep the present ones; log and notices report which."""
    try:
        with daemon.reloading:
            settings, waiting = renewed(daemon.settings, load())
            daemon.use(settings)
    except LarsError as error:
        daemon.notices = [f"the settings stay as they were: {error}"]
        log.error("settings_not_reloaded", error=str(error))
        return
    except Exception as error:
        daemon.notices = [f"the settings could not be read again: unexpected {type(error).__name__}; the log says more"]
        log.exception("settings_not_reloaded")
        return
    _tell(daemon, waiting)


def change(daemon: Daemon, values: Mapping[str, Any]) -> None:
    """Change settings by key (`schedule.cron`; None takes a change back), now and for later starts.

    Raises ConfigError or DiskFull; nothing is changed then.
    """
    with daemon.reloading:
        before, data_dir = daemon.settings, daemon.settings.data_dir
        changes, wanted = daemon.source.with_changes(data_dir, values)
        settings, waiting = renewed(before, wanted)
        daemon.use(settings)
        try:
            write_changes(data_dir, changes)
        except Exception:
            daemon.use(before)
            raise
    _tell(daemon, waiting)


def _tell(daemon: Daemon, waiting: list[str]) -> None:
    daemon.notices = [f"takes effect at the next start: {', '.join(waiting)}"] if waiting else []
    log.info("settings_reloaded", at_next_start=waiting)


def renewed(current: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """Return the settings to apply now, and the keys whose new values apply at the next start."""
    live = {key: getattr(wanted.runtime, key) for key in LIVE_RUNTIME}
    kept = {name: getattr(current, name) for name in FIXED}
    settings = wanted.model_copy(update={**kept, "runtime": current.runtime.model_copy(update=live)})
    now = dict(_values(settings))
    return settings, [key for key, value in _values(wanted) if value != now[key]]


def applies_now(path: Sequence[str]) -> bool:
    """Return whether a change of the setting at `path` (section, key) applies while the daemon runs."""
    return path[0] not in FIXED and (path[0] != "runtime" or path[1] in LIVE_RUNTIME)


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield each key, with its section's name before it, and its value."""
    for name, section in settings:
        if keys := getattr(section, "__pydantic_fields__", None):
            yield from ((f"{name}.{key}", getattr(section, key)) for key in keys)
        else:
            yield name, section
