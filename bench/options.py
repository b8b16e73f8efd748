"""Options that several commands of the benchmarks have, and the reading of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bench.record import CHECKOUT
from lars_agent.errors import LarsError

PROGRAM = "python -m bench"
MODELS = CHECKOUT / ".cache" / "models"
T = TypeVar("T")

Out = Annotated[Path, typer.Option(help="Folder of the results.", show_default="bench/results")]
Models = Annotated[Path, typer.Option(help="Folder of the base models.", show_default=".cache/models")]


def require(*packages: str) -> None:
    """Raises LarsError where one of the extra's packages is missing."""
    missing = [name for name in packages if find_spec(name.lower()) is None]
    if missing:
        raise LarsError(f"{' and '.join(missing)} must be installed for this; run: pip install 'lars-agent[bench]'")


def seeded(seeds: str, **subject: Any) -> list[dict[str, Any]]:
    """The subject once with each of the seeds."""
    return [{**subject, "seed": seed} for seed in listed(seeds, "--seeds", "no seed", int)]


def settings(changes: str) -> dict[str, str]:
    """The settings in a list of NAME=VALUE."""
    return dict(listed(changes, "--settings", "no NAME=VALUE", _pair))


def among(text: str, known: Sequence[str], option: str) -> list[str]:
    """The words of a list, each of which is known."""
    return listed(text, option, f"none of {', '.join(known)}", lambda word: known[known.index(word)])


def listed(text: str, option: str, what: str, kind: Callable[[str], T]) -> list[T]:
    """The values of a list. Raises BadParameter, which names the first invalid one and `what` it is."""
    values = []
    for word in filter(None, map(str.strip, text.split(","))):
        try:
            values.append(kind(word))
        except ValueError:
            raise typer.BadParameter(f"{word!r} is {what}", param_hint=option) from None
    return values


def _pair(word: str) -> tuple[str, str]:
    name, value = word.split("=")
    return name, value


def count(word: str) -> int:
    """A number of at least 1. Raises ValueError."""
    if int(word) < 1:
        raise ValueError
    return int(word)
