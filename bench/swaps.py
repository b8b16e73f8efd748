"""Versions put in use under load: what fails, what mixes, how long it takes."""

from __future__ import annotations

import random
import re
import threading
import time
from pathlib import Path
from typing import Any

from bench.clients import PROMPTS, Answer, Client, ask, daemon_with
from examples.running import Daemon

VERSIONS, TOKENS = 3, 24
PAUSE_S = (0.02, 0.2)  # between two swaps
SWAP_MS = re.compile(r"adapter_in_use.*swap_ms=\D*?([\d.]+)")  # in the daemon's log
Swap = tuple[str, float, float]  # the version, when it was asked for, and when that was answered


def swaps(model: Path, dtype: str, count: int) -> dict[str, Any]:
    """`count` swaps while as many clients as there are prompts keep asking: times, and the replies that were wrong.

    `failed` have no reply. `mixed` is one that differs from the reply of the version it names, made with nothing going
    on beside it. `stale` ones were asked for after a swap was answered, and came from another version.
    """
    with daemon_with(model, VERSIONS, model__dtype=dtype) as running:
        expected = {(prompt, version): alone(running, prompt, version) for version in names() for prompt in PROMPTS}
        done, calls = threading.Event(), list[Swap]()
        clients = [
            Client(str(running.http.base_url), prompt, TOKENS, lambda _: not done.is_set()) for prompt in PROMPTS
        ]
        threads = [client.start() for client in clients]
        dice = random.Random(0)
        try:
            for number in range(count):
                calls.append(activate(running, names()[number % VERSIONS]))
                time.sleep(dice.uniform(*PAUSE_S))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        moved = [float(found) for found in SWAP_MS.findall(running.log.read_text(encoding="utf-8"))]
    answers = [answer for client in clients for answer in client.answers]
    good = [answer for answer in answers if answer.status == 200]
    return {
        "dtype": dtype,
        "swaps": count,
        "replies": len(answers),
        "different_replies": len(set(expected.values())),
        "failed": len(answers) - len(good),
        "mixed": sum((answer.text, answer.tokens) != expected[answer.prompt, answer.version] for answer in good),
        "stale": sum(is_stale(answer, calls) for answer in good),
        "swap_ms": moved[-count:],
        "call_ms": [round(1000 * (answered - asked), 3) for _, asked, answered in calls],
    }


def names() -> list[str]:
    return [f"v{number}" for number in range(1, VERSIONS + 1)]


def alone(running: Daemon, prompt: str, version: str) -> tuple[str, int]:
    """The reply of one version, with nothing going on beside it."""
    activate(running, version)
    answer = ask(running.http, prompt, TOKENS)
    assert answer.version == version
    return answer.text, answer.tokens


def activate(running: Daemon, version: str) -> Swap:
    asked = time.monotonic()
    running.post(f"/adapters/{version}/activate", {})
    return version, asked, time.monotonic()


def is_stale(answer: Answer, calls: list[Swap]) -> bool:
    """Whether it was asked for between two swaps, and came from another version than the first of them put in use."""
    before = [call for call in calls if call[2] < answer.asked]
    if not before:
        return False
    version, _, answered = before[-1]
    going = [call for call in calls if call[1] <= answer.had and call[2] > answered]  # under way meanwhile
    return answer.version != version and answer.version not in {call[0] for call in going}
