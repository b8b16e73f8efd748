"""A disk that becomes full at a chosen write: right before the file is opened, what room is left is taken."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIECES_BYTES = (2**16, 2**12, 1)


def fill_up(filler: Path) -> None:
    """No byte is left on the disk of the file `filler`, which takes them all."""
    with filler.open("ab", buffering=0) as file:
        for size in PIECES_BYTES:
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def fill_once(filler: Path, report: Path, words: str) -> Callable[[], None]:
    """What fills the disk when it is called first, by any process with the same `report`, and writes `words` there."""
    lock = threading.Lock()

    def fill() -> None:
        with lock:
            if not report.exists():
                report.write_text(words, encoding="utf-8")
                fill_up(filler)

    return fill


def fill_at_write(data_dir: Path, pattern: str, fill: Callable[[], None]) -> None:
    """`fill` is called before a file is opened for writing whose path in `data_dir` fits `pattern` as a whole."""
    inside, busy = re.compile(pattern), threading.local()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or getattr(busy, "filling", False) or not isinstance(arguments[0], str | os.PathLike):
            return
        path, writes = Path(arguments[0]), arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and path.is_relative_to(data_dir) and inside.fullmatch(str(path.relative_to(data_dir))):
            busy.filling = True
            try:
                fill()
            finally:
                busy.filling = False

    sys.addaudithook(hear)
