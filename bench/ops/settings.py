"""How much of each part of `python -m bench ops`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpsSettings:
    """How much of each part, and from which seed."""

    seed: int
    connections: int
    seconds: float
    cases: int
    files: int
    minutes: float
    tiny: bool = False  # the tiny model where a part measures the default one
