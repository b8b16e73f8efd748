"""What encryption of the state folder costs feedback: `python -m bench.at_rest` as root, after `fscrypt setup`.

One ext4 image holds two folders, one of them encrypted by the kernel (fscrypt), and each a database of its own. Blocks
of feedback are stored in both, in turn, each row on the disk before it counts as stored. The ratio of a pair of blocks
is the encrypted one's time over the other's; a pair of the same folder twice is the control. `--folder` compares with
a folder of yours instead, such as one on LUKS or gocryptfs.
"""

from __future__ import annotations

import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bench.child import run
from bench.faults.disks import mounted
from lars_agent.example import Message
from service.db import Database
from service.db.records import NewFeedback

IMAGE_BYTES = 256 * 2**20
HINT = "this needs root, fscrypt, and a kernel whose ext4 can encrypt"
SENTENCE = "The neighbour's dog is called Biscuit and likes long walks by the river. "


@contextmanager
def folders(work: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a plain folder and an encrypted one of the same new filesystem."""
    image, key, mount = work / "disk.img", work / "key", work / "disk"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    key.write_bytes(secrets.token_bytes(32))
    run(["mkfs.ext4", "-q", "-O", "encrypt", str(image)], "mkfs.ext4", hint=HINT)
    with mounted(mount, "-o", "loop", str(image)):
        plain, encrypted = mount / "plain", mount / "encrypted"
        plain.mkdir()
        encrypted.mkdir()
        run(["fscrypt", "setup", "--quiet", str(mount)], "fscrypt", hint=f"{HINT}; run once: fscrypt setup")
        source = ["--source=raw_key", "--name=bench", f"--key={key}", "--quiet"]
        run(["fscrypt", "encrypt", str(encrypted), *source], "fscrypt", hint=HINT)
        yield plain, encrypted


def ratios(plain: Path, other: Path, pairs: int, rows: int) -> list[float]:
    """Return the time of a block in `other` over one in `plain`, by pair; each comes first in half of the pairs."""
    databases = [Database(plain / "a.db"), Database(other / "b.db")]
    try:
        found = list[float]()
        for pair in range(-1, pairs):  # the first warms up
            first = pair % 2
            times = {index: _block(databases[index], rows) for index in (first, 1 - first)}
            found.append(times[1] / times[0])
        return found[1:]
    finally:
        for database in databases:
            database.close()


def _block(database: Database, rows: int) -> float:
    started = time.perf_counter()
    for number in range(rows):
        asked = Message(role="user", content=f"{number}: {SENTENCE}")
        database.feedback.add(NewFeedback(messages=(asked,), response=SENTENCE, correction=SENTENCE * 3))
    return time.perf_counter() - started


def _row(name: str, values: Sequence[float]) -> dict[str, object]:
    middle = round(statistics.median(values), 3)
    return {
        "row": name,
        "ratio": middle,
        "from": round(min(values), 3),
        "to": round(max(values), 3),
        "pairs": len(values),
    }


def main(
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of blocks.")] = 20,
    rows: Annotated[int, typer.Option(min=1, help="Rows of feedback in a block.")] = 100,
    folder: Annotated[Path | None, typer.Option(help="Encrypted folder to compare with a plain one beside it.")] = None,
) -> None:
    """Print the paired ratios as JSON lines."""
    with tempfile.TemporaryDirectory() as work, folders(Path(work)) as (plain, encrypted):
        for name, other in (("control", plain), ("encrypted" if folder is None else str(folder), folder or encrypted)):
            for file in plain.iterdir():
                file.unlink()
            print(json.dumps(_row(name, ratios(plain, other, pairs, rows))), flush=True)


if __name__ == "__main__":
    typer.run(main)
