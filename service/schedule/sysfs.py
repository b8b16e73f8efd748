"""Reading of the kernel's small text files; one that is missing or cannot be read is None."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

SYS, PROC = Path("/sys"), Path("/proc")


def folders(path: Path) -> Iterator[Path]:
    """Yield what the folder holds, by name; nothing if there is no such folder."""
    with contextlib.suppress(OSError):
        yield from sorted(path.iterdir())


def read(path: Path) -> str | None:
    """Return the text of the file, without white space around it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip()
    return None


def read_number(path: Path) -> int | None:
    """Return the whole number, not below 0, that the file holds."""
    text = read(path) or ""
    return int(text) if text.isdecimal() and len(text) < 20 else None
