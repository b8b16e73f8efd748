"""Order of the suite: files that run the real model first, so that none of them is left to the end alone."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "real_model" not in item.keywords)
