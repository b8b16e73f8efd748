"""Output of the commands: text, tables, and JSON for `--json`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.client import ApiError

WIDE = 10_000  # characters of a line in a pipe or a file, which nothing has to fit
OUT = Console(width=None if sys.stdout.isatty() else WIDE)
ERR = Console(stderr=True)
PROGRESS_S = 1.0
SHOWN_CHARS = 60  # of a text in a table
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey some of them
CROPPED = {"note", "prompt", "reply"}  # columns of one line, whose texts give way to the others
UNBROKEN = {"id", "job", "created", "scheduled", "name", "profile", "status", "version", "judged"}  # to copy from
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def print_text(text: str, console: Console = OUT, **style: Any) -> None:
    """Print `text` as it is: no markup, no colours of its own, no line breaks; without control characters."""
    console.print(plain(text), markup=False, highlight=False, soft_wrap=True, **style)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_result(value: Any, text: str, as_json: bool) -> None:
    """Print the result of a command: `value` as JSON, or the text."""
    if as_json:
        print_json(value)
    else:
        print_text(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> Table:
    """Return a table; the columns numbered in `right` are aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        made.add_column(name, no_wrap=name in UNBROKEN, overflow="fold")
    for number in right:
        made.columns[number].justify = "right"
    for row in rows:
        cells = zip(columns, row, strict=True)
        made.add_row(*(_cropped(cell) if name in CROPPED else Text(plain(cell)) for name, cell in cells))
    return made


def plain(text: str) -> str:
    """Return `text` with what a terminal would obey made visible."""
    return CONTROL.sub("\ufffd", text)


def _cropped(text: str) -> Text:
    return Text(plain(text), no_wrap=True, overflow="ellipsis")


def one_line(text: str | None) -> str:
    """Return the beginning of `text` in one line."""
    line = " ".join((text or "").split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 3]}..."


def local_day(text: str) -> str:
    """Return an ISO 8601 time as this device's date."""
    return local_time(text)[:10]


def local_time(text: str | None) -> str:
    """Return an ISO 8601 time as this device's date and time, to the minute."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M") if text else ""


def print_fields(fields: Iterable[tuple[str, str | None]]) -> None:
    """Print names and values, one a line, without those that are empty; a value of several lines begins on its own."""
    for name, value in fields:
        if value:
            print_text(f"{name:13}{value}" if "\n" not in value else f"{name}\n{value}")


def print_page(page: Any, kind: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a page of records as a table, and say if there are more of them."""
    count, total = len(page[kind]), page.get("total")
    if not count:
        return print_text(f"no {kind}")
    OUT.print(table(columns, rows))
    if page["next"]:
        of = "" if total is None else f" of {total:,}"
        print_text(f"the newest {count:,}{of}; --limit shows more", ERR)
    return None


@contextlib.contextmanager
def progress_shown(read: Callable[[], str]) -> Iterator[None]:
    """Print to a terminal what `read` returns, every second within the block."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()

    def show() -> None:
        while not over.wait(PROGRESS_S):
            with contextlib.suppress(ApiError):
                sys.stderr.write(f"\r\033[K{read()}")
                sys.stderr.flush()
        sys.stderr.write("\r\033[K")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
