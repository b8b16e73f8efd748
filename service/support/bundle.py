"""The support bundle: a zip file of facts, each of them allowed by a rule of this folder, so that it can be sent on."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lars_agent.errors import LarsError
from lars_agent.files import write_atomically
from service.db.migrate import revision
from service.db.read_only import read_only
from service.settings.load import Layer, Settings
from service.support.device_told import device_told, files_told
from service.support.log_told import log_told
from service.support.records_told import Numbering, jobs_told, nights_told, versions_told
from service.support.settings_told import settings_told

ABOUT = """\
A support bundle of lars-agent: facts about a device and its daemon, for somebody who helps with a problem.

It is made of what rules allow, not of what others forbid: numbers, times, and words of lars-agent's own. Left out are
all texts that somebody wrote or was answered, names of profiles, files, models and hosts, paths, addresses, tokens and
ids, and the messages of errors and of the log. Where a part could not be read it says by which kind of error.

Everything in it is text. Look at it before you send it.
"""
SCHEMA = re.compile(r"\d{4}")
LABELS = "code|dialect|kind|le|outcome|process|reason|status|version"
LABEL = rf'(?:{LABELS})="[A-Za-z0-9_.+ -]{{0,40}}"'
SAMPLE = re.compile(rf"lars_agent_[a-z_]+(?:\{{{LABEL}(?:,{LABEL})*\}})? (?:[\d.e+-]+|NaN|[+-]Inf)")

Findings = Iterable[tuple[str, bool]]


def members(
    load: Callable[[], tuple[Settings, list[Layer]]],
    examine: Callable[[], Findings],
    scrape: Callable[[], Iterable[str]],
) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each file of the bundle.

    `load` gives the settings and where they come from, `examine` the doctor's findings by name, `scrape` the lines of
    the daemon's metrics. A part that raises is replaced by the kind of its error.
    """
    yield "README.txt", ABOUT
    yield _json("device", device_told)
    try:
        settings, layers = load()
    except LarsError as error:
        yield _told("settings.json", _failed(error))
    else:
        yield _json("settings", lambda: settings_told(settings, layers))
        yield from _state(settings)
    yield _json("doctor", lambda: [{"check": name, "is_good": is_good} for name, is_good in examine()])
    yield _text(
        "metrics.txt", lambda: "".join(f"{line}\n" for line in map(str.strip, scrape()) if SAMPLE.fullmatch(line))
    )
    yield _json("log", log_told)


def write_bundle(file: Path, content: Mapping[str, str]) -> None:
    """Write the members into `file`, which its owner alone may read. Raises FileExistsError, OSError, DiskFull."""
    if file.exists():
        raise FileExistsError(f"{file} exists already; give another name")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    write_atomically(file, made.getvalue())


def _state(settings: Settings) -> Iterator[tuple[str, str]]:
    numbering = Numbering()

    def database() -> dict[str, Any]:
        found = revision(settings.database_path) or ""
        with read_only(settings.database_path) as db:
            schema = found if SCHEMA.fullmatch(found) else "unknown"
            return {"schema": schema, "is_sound": db.is_sound(), "rows": db.counts()}

    def nights() -> list[Any]:
        with read_only(settings.database_path) as db:
            return nights_told(db, numbering)

    def jobs() -> list[Any]:
        with read_only(settings.database_path) as db:
            return jobs_told(db, settings, numbering)

    yield _json("files", lambda: files_told(settings))
    yield _json("database", database)
    yield _json("nights", nights)
    yield _json("jobs", jobs)
    yield _json("versions", lambda: versions_told(settings, numbering))


def _json(name: str, make: Callable[[], Any]) -> tuple[str, str]:
    return _text(f"{name}.json", lambda: _told("", make())[1])


def _text(name: str, make: Callable[[], str]) -> tuple[str, str]:
    """Return a member; a device on which something is broken is what a bundle is for."""
    try:
        return name, make()
    except Exception as error:
        return _told(name, _failed(error))


def _told(name: str, value: Any) -> tuple[str, str]:
    return name, json.dumps(value, indent=1) + "\n"


def _failed(error: Exception) -> dict[str, str]:
    """Return the kind of an error, without its message, which may say anything."""
    return {"error": type(error).__name__}
