"""Order of the suite: files that run the real model come first, so that no process is left alone with them at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "real_model" not in item.keywords)
