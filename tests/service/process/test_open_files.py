"""The limit of open files, in a process whose limit it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import resource, sys
from service.process.open_files import open_files_left
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print("left", open_files_left(512, 300), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "left", "raised_to"),
    [(400, 4000, 512, 812), (400, 600, 300, 600), (100, 100, 25, 100), (1024, 4000, 512, 1024)],
)
def test_the_limit_is_raised_as_needed_and_enough_files_are_left_for_others(soft, hard, left, raised_to):
    command = [sys.executable, "-c", CHILD, str(soft), str(hard)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"left {left} {raised_to}" in said
    assert ("open_files_limited" in said) == (left < 512)
