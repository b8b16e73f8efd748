"""How people ask again: facts corrected once, and asked for in words that nobody who knew the code has chosen.

`asked/*.json` are two people's, each with what they corrected, how they ask for it again, questions beside it that it
does not answer, and general ones, half of which use the same words. They were written by somebody who had seen neither
the code nor the other file; the first was looked at while recall was made better, the second when that was done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.daemon import daemon_with
from bench.quality.once import CLIENTS, REPLY_TOKENS
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from examples.running import Daemon

PEOPLE = ("first", "second")
SCORES = ("found", "found_first", "right", "beside_right", "general_right")


def measure_rewordings(model: Path, subject: Record) -> dict[str, Any]:
    """The shares of what was found and right, on the very next reply, and every question that was not."""
    told = json.loads((files("bench.quality") / "asked" / f"{subject['person']}.json").read_text(encoding="utf-8"))
    with daemon_with(model, 0) as running:
        ids = []
        for fact in told["facts"]:
            body = {"prompt": fact["asked"], "response": "I do not know.", "correction": fact["correction"]}
            ids.append(running.post("/feedback", body)["id"])
        marks: dict[str, list[bool]] = {score: [] for score in SCORES}
        wrong = list[list[str]]()
        again = [(text, fact, own) for fact, own in zip(told["facts"], ids, strict=True) for text in fact["again"]]
        for (text, fact, own), (reply, recalled) in zip(again, _ask(running, [one[0] for one in again]), strict=True):
            is_right = _plain(fact["value"]) in _plain(reply)
            marks["found"].append(own in recalled)
            marks["found_first"].append(recalled[:1] == [own])
            marks["right"].append(is_right)
            wrong += [] if is_right else [["right", text, reply]]
        beside = [(text, fact) for fact in told["facts"] for text in fact["neighbours"]]
        for (text, fact), (reply, _) in zip(beside, _ask(running, [one[0] for one in beside]), strict=True):
            marks["beside_right"].append(_plain(fact["value"]) not in _plain(reply))
            wrong += [] if marks["beside_right"][-1] else [["beside_right", text, reply]]
        for text, (reply, recalled) in zip(told["general"], _ask(running, told["general"]), strict=True):
            marks["general_right"].append(not recalled)
            wrong += [["general_right", text, reply]] if recalled else []
    return {"facts": len(ids), "wrong": wrong} | {score: round(fmean(found), 4) for score, found in marks.items()}


def _ask(running: Daemon, texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The greedy replies as the daemon gives them unasked, and the ids of the corrections in their prompts."""

    def ask(text: str) -> tuple[str, list[str]]:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": REPLY_TOKENS, "temperature": 0}
        answer = running.post("/v1/chat/completions", body, **{"LARS-Learn": "off"})
        recalled = [one["feedback_id"] for one in answer["lars"]["recalled"]]
        return str(answer["choices"][0]["message"]["content"]), recalled

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, texts))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def rewording_rows(newest: Newest) -> list[Row]:
    """Each person's scores."""
    return [
        claimed(f"asked_again_{score}/{{person}}", [found[score]], person=found["person"], facts=found["facts"])
        for found in newest.values()
        for score in SCORES
    ]


REWORDINGS = Store(
    "quality-rewordings.jsonl", key=lambda found: (found["person"],), rows=rewording_rows, shown=("person", *SCORES)
)
