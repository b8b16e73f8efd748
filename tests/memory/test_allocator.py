"""How the worker is started: with an allocator that it can live with, and that gives back what is freed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest

from lars_agent.memory import allocator
from lars_agent.memory.allocator import THRIFTY_GLIBC, thrifty_environment
from tests.allocators import NAMES, environment_with

# Small pieces, every hundredth of which stays: what is free lies between what is not.
FREED = """
from lars_agent.memory.allocator import allocator_name, give_back
from lars_agent.memory.measure import rss_bytes

print(allocator_name())
before = rss_bytes()
pieces = [bytes(8000) for _ in range(20_000)]
print(rss_bytes() - before)
pieces = pieces[::100]
give_back()
print(rss_bytes() - before)
"""


def said(code: str, environment: dict[str, str]) -> list[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_freed_is_given_back(name):
    used, held, left = said(FREED, environment_with(name))
    assert used == name
    assert int(held) > 150_000_000
    assert int(left) < 20_000_000


def test_without_jemalloc_glibc_is_made_thrifty(monkeypatch):
    monkeypatch.setattr(allocator, "find_library", lambda name: None)
    environment = thrifty_environment({"HOME": "/nowhere"})
    assert "LD_PRELOAD" not in environment
    assert environment.items() >= ({"HOME": "/nowhere"} | THRIFTY_GLIBC).items()


@pytest.mark.parametrize("library", ["libc.so.6", "libnot-there.so.1"])
def test_a_library_that_does_not_serve_is_left_out(monkeypatch, library):
    monkeypatch.setattr(allocator, "find_library", lambda name: library)
    assert "LD_PRELOAD" not in thrifty_environment(os.environ)


def test_a_library_that_its_process_dies_of_is_left_out(monkeypatch, tmp_path):
    """jemalloc built for pages of 4 KiB, on a kernel with pages of 16 KiB (Raspberry Pi 5), ends so."""
    source, deadly = tmp_path / "deadly.c", tmp_path / "libdeadly.so"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { abort(); }\n")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", deadly, source], check=True)
    monkeypatch.setattr(allocator, "find_library", lambda name: str(deadly))
    assert "LD_PRELOAD" not in thrifty_environment(os.environ)


def test_what_was_loaded_before_others_still_is():
    environment_with("jemalloc")
    ours, theirs = thrifty_environment(os.environ | {"LD_PRELOAD": "libm.so.6"})["LD_PRELOAD"].split(":")
    assert "jemalloc" in ours
    assert theirs == "libm.so.6"


ARENAS = """
import re, threading
from lars_agent.memory.allocator import be_thrifty
{first}
gate = threading.Barrier(9)
def work():
    kept = [bytearray(5000) for _ in range(100)]
    gate.wait()
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
gate.wait()
spans = [line.split()[0].split("-") for line in open("/proc/self/maps")]
starts = [int(start, 16) for start, _ in spans]
gate.wait()
print(sum(start % (64 * 2**20) == 0 for start in starts))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's arenas")
def test_a_server_s_threads_share_arenas():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    (many,), (few,) = (said(ARENAS.replace("{first}", first), plain) for first in ("", "be_thrifty()"))
    assert int(few) <= 2 < int(many)
