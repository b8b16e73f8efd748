"""The lines of code in tracebacks, and the kinds of errors: of a log's text nothing else is told."""

from __future__ import annotations

import builtins
import re
from functools import cache
from pathlib import Path

import lars_agent
import lars_agent.errors
import service

MOST = 40
FRAME = re.compile(r'File "[^"\n]*/((?:lars_agent|service)/[\w/]+\.py)", line (\d{1,5})')
ERROR = re.compile(r"^(?:[\w.]+\.)?([A-Z]\w+)(?::|$)", re.M)
FOLDERS = [Path(package.__path__[0]) for package in (lars_agent, service)]


def traces(text: str) -> list[str]:
    """Return the last frames that are in this program's own files, and the names of errors that it or Python has."""
    frames = ((found.start(), f"{found[1]}:{found[2]}") for found in FRAME.finditer(text) if found[1] in _files())
    errors = ((found.start(), found[1]) for found in ERROR.finditer(text) if found[1] in error_names())
    return [line for _, line in sorted([*frames, *errors])][-MOST:]


@cache
def error_names() -> frozenset[str]:
    """Return the names of the errors that Python and the library raise."""
    kinds = [*vars(builtins).values(), *vars(lars_agent.errors).values()]
    return frozenset(kind.__name__ for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseException))


@cache
def _files() -> frozenset[str]:
    """Return the names of this program's files, from the package on."""
    return frozenset(path.relative_to(folder.parent).as_posix() for folder in FOLDERS for path in folder.rglob("*.py"))
