"""Records of the folders that were made on other machines, each kept until that machine says that it is gone.

A record is written before anything personal is sent, and locked by the carrier while it works. What is left after a cut
connection or a crash is asked for at every contact with that machine, and a machine removes by itself what is left
there as soon as anybody's carrier calls.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lars_agent.files import make_folder, read_plain, write_atomically
from lars_agent.records import parse_json


@dataclass(frozen=True)
class Left:
    """A folder named `name` on the machine of `address`, which has what the job `job` learns from."""

    file: Path
    address: str
    job: str
    name: str


@contextlib.contextmanager
def recorded(records: Path, address: str, job: str, name: str) -> Iterator[Left]:
    """Keep the record during the block, locked, and after it until `forget` is called."""
    folder = make_folder(records)
    folder.chmod(0o700)
    file = folder / f"{secrets.token_hex(8)}.json"
    write_atomically(file, json.dumps({"address": address, "job": job, "name": name}) + "\n")
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield Left(file, address, job, name)


def left(records: Path) -> list[Left]:
    """Return what may be left on other machines by carriers that have ended."""
    found = []
    for file in sorted(records.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), file.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)  # BlockingIOError while its carrier works
            values = parse_json(read_plain(file))
            found.append(Left(file, str(values["address"]), str(values["job"]), str(values["name"])))
    return found


def forget(one: Left) -> None:
    """Remove the record: the folder is gone."""
    one.file.unlink(missing_ok=True)
