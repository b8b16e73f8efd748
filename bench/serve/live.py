"""Measurements of a real daemon: throughput, swaps under load, the latency of feedback, and memory when unloaded."""

from __future__ import annotations

import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from bench.child import until
from bench.daemon import OK, PROMPTS, Answer, ask, asking, daemon_with, held_mb, training_job, wrong_replies
from examples.persona import MARA, read_lines
from examples.running import Daemon
from lars_agent.errors import LarsError

CLIENT_COUNTS = (1, 2, 4)
TOKENS, REPLIES_EACH = 64, 4
VERSIONS, SWAP_TOKENS = 3, 24
SWAP_PAUSE_S = (0.02, 0.2)  # between two swaps
SWAP_MS = re.compile(r"adapter_in_use.*swap_ms=\D*?([\d.]+)")  # in the daemon's log
FEEDBACKS, FEEDBACK_PAUSE_S, LONG_TOKENS = 500, 0.01, 200
KEEP_ALIVE_S, SETTLE_S, UNLOAD_LIMIT_S = 1.0, 3.0, 60.0
Swap = tuple[str, float, float]  # the version, and the times of the request and of the answer


def throughput(model: Path, dtype: str) -> dict[str, Any]:
    """Tokens a second of all replies by the number of clients that ask at once."""
    found = {}
    with daemon_with(model, 1, model__dtype=dtype) as running:
        running.post("/adapters/v1/activate", {})
        ask(running.http, PROMPTS[0], TOKENS)
        for count in CLIENT_COUNTS:
            started = time.monotonic()
            with ThreadPoolExecutor(count) as pool:
                answers = pool.map(lambda prompt: ask(running.http, prompt, TOKENS), REPLIES_EACH * PROMPTS[:count])
            found[str(count)] = round(sum(answer.tokens for answer in answers) / (time.monotonic() - started), 2)
    return {"dtype": dtype, "tokens_s": found}


def swaps(model: Path, dtype: str, count: int) -> dict[str, Any]:
    """`count` swaps while as many clients as there are prompts keep asking: times, and the replies that were wrong.

    `failed` have no reply. `mixed` ones differ from the reply of the version they name, made alone. `stale` ones were
    asked for after a swap was answered, and came from another version.
    """
    names = [f"v{number}" for number in range(1, VERSIONS + 1)]
    with daemon_with(model, VERSIONS, model__dtype=dtype) as running:
        for version in names:  # each is loaded once before
            _activate(running, version)
            ask(running.http, PROMPTS[0], SWAP_TOKENS)
        calls, rng = list[Swap](), random.Random(0)
        with asking(running, PROMPTS, SWAP_TOKENS) as answers:
            for number in range(count):
                calls.append(_activate(running, names[number % VERSIONS]))
                time.sleep(rng.uniform(*SWAP_PAUSE_S))
        moved = [float(found) for found in SWAP_MS.findall(running.log.read_text(encoding="utf-8"))]
        mixed = wrong_replies(running.http, answers, SWAP_TOKENS)
    good = [answer for answer in answers if answer.status == OK]
    return {
        "dtype": dtype,
        "swaps": count,
        "replies": len(answers),
        "failed": len(answers) - len(good),
        "mixed": len(mixed),
        "stale": sum(is_stale(answer, calls) for answer in good),
        "swap_ms": moved[-count:],
        "call_ms": [round(1000 * (answered - asked), 3) for _, asked, answered in calls],
    }


def _activate(running: Daemon, version: str) -> Swap:
    asked = time.monotonic()
    running.post(f"/adapters/{version}/activate", {})
    return version, asked, time.monotonic()


def is_stale(answer: Answer, calls: list[Swap]) -> bool:
    """Tell whether it was asked for between two swaps, and came from another version than the first one's."""
    earlier = [call for call in calls if call[2] < answer.asked]
    if not earlier:
        return False
    version, _, answered = earlier[-1]
    meanwhile = {call[0] for call in calls if call[1] <= answer.had and call[2] > answered}
    return answer.version != version and answer.version not in meanwhile


def feedback_latency(model: Path) -> dict[str, Any]:
    """Milliseconds to store each of many feedbacks: beside two clients' replies, and beside training steps."""
    with daemon_with(model, 0) as running:
        with asking(running, PROMPTS[:2], LONG_TOKENS):
            time.sleep(1.0)
            generating = _store(running)
        with training_job(running, steps=2) as path:
            training = _store(running)
            if running.get(path)["status"] != "running":
                raise LarsError("the job ended too early to tell")
    return {"generating_ms": generating, "training_ms": training}


def _store(running: Daemon) -> list[float]:
    lines, found = read_lines(MARA / "feedback.jsonl"), []
    for number in range(FEEDBACKS):
        line = lines[number % len(lines)] | {"response": f"I do not know ({number})."}
        started = time.perf_counter()
        running.post("/feedback", line)
        found.append(round(1000 * (time.perf_counter() - started), 3))
        time.sleep(FEEDBACK_PAUSE_S)
    return found


def unloaded(model: Path) -> dict[str, Any]:
    """MB of the daemon and all its processes, after a reply (`awake`), and once the model is unloaded (`asleep`)."""
    with daemon_with(model, 0, runtime__keep_alive_s=str(KEEP_ALIVE_S)) as running:
        ask(running.http, PROMPTS[0], 8)
        assert running.process is not None
        process = psutil.Process(running.process.pid)
        awake = held_mb(process)
        if not until(lambda: not process.children(recursive=True), UNLOAD_LIMIT_S, 0.2):
            raise LarsError("the model was not unloaded")
        time.sleep(SETTLE_S)
        return {"awake": awake, "asleep": held_mb(process)}
