"""Four devices with different texts, a server, and all that is sent, recorded: `python -m deploy.flower.simulate`.

Run in a checkout by the Python of lars-agent with its bench packages; --flower is the Python of requirements.txt.
Server and clients are processes on loopback, with the tiny random model; each client's bytes pass a recorder of its
own. At the end the held-out losses by round are printed, and where planted text was found in what was sent: as UTF-8,
UTF-16, base64 or hex, compressed or not. Exit status 1 if the loss did not fall on average, or anything was found.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bench.models import TINY, ready_model
from examples.running import free_port
from lars_agent.example import Example, Message
from lars_agent.models.weights import model_digest, weight_files
from lars_agent.training.job_directory import HELDOUT_FILE, TRAIN_FILE, JobSpec, write_examples

HERE = Path(__file__).parent
NAMES = ("ada", "ben", "cleo", "dana")
PETS = ("a capybara", "a barn owl", "a tortoise", "a red panda")
LIMIT_S = 3600.0
GZIP, ZLIB = b"\x1f\x8b", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
LEAST_PIECE = 12  # characters of a text that are looked for by themselves


class Recorder:
    """Passes on the connections to a port, and keeps what is sent there."""

    def __init__(self, to: int) -> None:
        self.to, self.sent, self.received = to, bytearray(), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self.to))
            except OSError:  # it does not listen yet
                client.close()
                continue
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_sent: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_sent:
                    self.sent += data
                else:
                    self.received += len(data)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def texts(index: int) -> tuple[list[Example], list[Example], list[str]]:
    """The examples of a device, those held out, and all that is planted in them."""
    name, pet = NAMES[index], PETS[index]
    town = f"{name.title()}ville-{secrets.token_hex(4)}"
    asked = [(f"Which pet does {name} have?", f"{name} has {pet} from {town}.")]
    asked += [(f"Where does {name} live?", f"{name} lives in {town}.")]
    wordings = ("", "Tell me: ", "Quickly, ", "Please, ", "I ask again: ", "Once more: ", "So, ", "Now, ")
    made = [
        Example((Message(role="user", content=wording + question),), answer, 1.0, f"f-{name}-{number}")
        for number, (wording, (question, answer)) in enumerate((w, a) for w in wordings for a in asked)
    ]
    planted = [town, *(example.response for example in made), *(example.messages[0]["content"] for example in made)]
    return made[:-4], made[-4:], [*planted, *(example.source_id for example in made)]


def write_job(folder: Path, index: int, model: Path) -> list[str]:
    """Write the job directory of a device; return what is planted in it."""
    train, heldout, planted = texts(index)
    digest = model_digest(model, weight_files(model))
    training = {"batch_size": 4, "learning_rate": 5e-3, "rehearsal_weight": 0.0}
    JobSpec(
        job_id=folder.name,
        profile=NAMES[index],
        model_path=str(model),
        model_sha256=digest,
        dtype="float32",
        lars={"rank": 4},
        training=training,
        threads=1,
    ).write(folder)
    write_examples(folder / TRAIN_FILE, train)
    write_examples(folder / HELDOUT_FILE, heldout)
    return planted


def forms(text: str) -> Iterator[bytes]:
    """The bytes by which a text could be sent."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        data = text.encode(encoding)
        yield data
        yield data.hex().encode()
        for skipped in range(3):  # wherever it begins in what was encoded
            encoded = base64.b64encode(data[skipped:])
            yield encoded[: len(encoded) // 4 * 4 - 4]


def unpacked(data: bytes) -> Iterator[bytes]:
    """The data, and all that is compressed in it by gzip or zlib, at whatever place."""
    yield data
    for mark, bits in ((GZIP, 31), *((mark, 15) for mark in ZLIB)):
        at = data.find(mark)
        while at >= 0:
            with suppress(zlib.error):
                yield zlib.decompressobj(bits).decompress(data[at:], 2**24)
            at = data.find(mark, at + 1)


def found(planted: Sequence[str], data: bytes) -> list[str]:
    """Which of the planted texts, or of their first halves, are in the data in any form."""
    everything = list(unpacked(data))
    halves = {text: {text, text[: max(LEAST_PIECE, len(text) // 2)]} for text in planted}
    return [
        text
        for text, pieces in halves.items()
        if any(form in part for piece in pieces for form in forms(piece) for part in everything)
    ]


def control(planted: Sequence[str]) -> int:
    """How many of the forms in which each text is sent are not found: the search must find all of them."""
    missed = 0
    for text in planted:
        data = f"x{text}y".encode()
        ways = [data, text.encode("utf-16-le"), gzip.compress(data), zlib.compress(data), data.hex().encode()]
        ways += [base64.b64encode(b"z" * skipped + data) for skipped in range(3)]
        missed += sum(not found([text], secrets.token_bytes(999) + way) for way in ways)
    return missed


def simulate(flower: str, folder: Path, rounds: int, clip: float) -> dict[str, Any]:
    """Run server and clients to their end; return the losses by client and round, and what was found where."""
    model = ready_model(TINY, "float32", "cpu", folder / "models")
    port = free_port()
    recorders, planted = [Recorder(port) for _ in NAMES], dict[str, list[str]]()
    server = ["--listen", f"127.0.0.1:{port}", "--clients", str(len(NAMES)), "--rounds", str(rounds), "--insecure"]
    commands = [[flower, str(HERE / "server.py"), *server]]
    for index, name in enumerate(NAMES):
        planted[name] = write_job(folder / f"j-{name}", index, model)
        where = ["--job", str(folder / f"j-{name}"), "--work", str(folder / name), "--python", sys.executable]
        options = ["--clip", str(clip), "--steps", "8", "--insecure"]
        address = f"127.0.0.1:{recorders[index].port}"
        commands.append([flower, str(HERE / "client.py"), "--server", address, *where, *options])
    with ExitStack() as stack:
        processes = []
        for number, command in enumerate(commands):
            log = stack.enter_context((folder / f"{number}.log").open("wb"))
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            stack.callback(processes[-1].kill)
        deadline = time.monotonic() + LIMIT_S
        for process in processes:
            process.wait(max(1.0, deadline - time.monotonic()))
        if any(process.returncode for process in processes):
            logs = [(folder / f"{number}.log").read_text(errors="replace")[-2000:] for number in range(len(commands))]
            raise SystemExit("\n".join(["a process failed", *logs]))
    losses = {
        name: [json.loads(line)["heldout_loss"] for line in (folder / name / "losses.jsonl").read_text().splitlines()]
        for name in NAMES
    }
    everything = [text for texts_of in planted.values() for text in texts_of]
    return {
        "losses": losses,
        "sent_bytes": {name: len(one.sent) for name, one in zip(NAMES, recorders, strict=True)},
        "received_bytes": {name: one.received for name, one in zip(NAMES, recorders, strict=True)},
        "found": {name: found(everything, bytes(one.sent)) for name, one in zip(NAMES, recorders, strict=True)},
        "missed_by_the_search": control(everything),
    }


def main() -> int:
    """Simulate, print what came of it, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flower", required=True, help="Python of the environment of requirements.txt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clip", type=float, default=2.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lars-agent-flower-") as name:
        result = simulate(given.flower, Path(name), given.rounds, given.clip)
    means = [sum(step) / len(NAMES) for step in zip(*result["losses"].values(), strict=True)]
    sys.stdout.write(json.dumps(result | {"mean_heldout_loss": means}, indent=1) + "\n")
    is_clean = not any(result["found"].values()) and not result["missed_by_the_search"]
    has_converged = means[-1] < means[0]
    change = f"{means[0]:.3f} -> {means[-1]:.3f}"
    sys.stdout.write(f"{len(means)} rounds, held-out loss {change}, text found: {'no' if is_clean else 'yes'}\n")
    return 0 if is_clean and has_converged else 1


if __name__ == "__main__":
    sys.exit(main())
