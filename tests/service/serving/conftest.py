from __future__ import annotations

from tests.runtime.conftest import opened, store

__all__ = ["opened", "store"]  # the fixtures of the engine's own tests
