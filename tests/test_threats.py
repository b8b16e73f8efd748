"""THREATS.md: every row names the tests that show it, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SECTIONS = re.split("^## ", (REPOSITORY / "THREATS.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
ROW = re.compile(r"^\| (?!attempt \||---)(.+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def tests() -> set[str]:
    files = (REPOSITORY / "tests").rglob("test_*.py")
    return {
        name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_every_attempt_names_tests_that_exist_and_every_section_says_what_is_not_stopped(section, tests):
    assert "\nNot stopped: " in section
    for row in ROW.findall(section):
        cells = row.split(" | ")
        assert len(cells) == 3, row
        named = re.findall(r"`(test_\w+)`", cells[2])
        assert named, row
        assert [name for name in named if name not in tests] == [], row


def test_all_are_thought_of():
    headings = " ".join(section.partition("\n")[0] for section in SECTIONS)
    for who in ("neighbour", "web page", "user of the device", "pasted", "SD card", "model or adapter", "housemate"):
        assert who in headings
    assert sum(len(ROW.findall(section)) for section in SECTIONS) > 20
