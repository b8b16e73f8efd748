"""Strikes shared between lanes, each with a folder and a daemon of its own, and what they found put together."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

MOST = 2

Lane = TypeVar("Lane")


@dataclass
class Findings:
    """What the strikes of one lane found."""

    strikes: int = 0
    acknowledged: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    wrong_replies: list[str] = field(default_factory=list)
    published_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    integrity: list[str] = field(default_factory=list)


def in_lanes(count: int, work: Callable[[int, int, threading.Event], Lane]) -> list[Lane]:
    """What `work` gives for each lane: its number, how many there are, and what says that it is to stop.

    There are as many as there are cores, two at most, and no more than `count` strikes.
    """
    lanes = min(MOST, os.cpu_count() or 1, count)
    stop = threading.Event()
    with ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(work, number, lanes, stop) for number in range(lanes)]
        try:
            return [future.result() for future in futures]
        finally:
            stop.set()


def summed(found: Sequence[Findings]) -> dict[str, Any]:
    """The sum of the lanes, as JSON."""
    total: dict[str, Any] = {**vars(found[0])}
    for other in found[1:]:
        for name, value in vars(other).items():
            total[name] = total[name] + value
    return {name: dict(value) if isinstance(value, Counter) else value for name, value in total.items()}
