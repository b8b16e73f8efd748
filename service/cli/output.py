"""Output of the commands: text, tables, and JSON for `--json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

OUT = Console()
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
