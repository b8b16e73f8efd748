"""Output of the commands: text, tables, and JSON for `--json`."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.cli.client import ApiError

OUT = Console()
PROGRESS_S = 1.0
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_text(text: str, **style: Any) -> None:
    """Print `text` as it is: no markup, no colours of its own, no line breaks."""
    OUT.print(text, markup=False, highlight=False, soft_wrap=True, **style)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> Table:
    """Return a table; the columns numbered in `right` are aligned to the right."""
    made = Table(*columns)
    for number in right:
        made.columns[number].justify = "right"
    for row in rows:
        made.add_row(*row)
    return made


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
