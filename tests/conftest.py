"""Order of the suite: files that run the real model or train first, so that none of them is left to the end alone."""

from __future__ import annotations

from pathlib import Path

import pytest

TRAINING = Path(__file__).parent / "training"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ("real_model" not in item.keywords, TRAINING not in item.path.parents))
