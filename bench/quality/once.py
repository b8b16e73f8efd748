"""Facts that a person corrects once, over the API of a real daemon: what comes back at once, and after a night.

Each arm answers the same questions: the wording that was corrected, three that never were, the same question about
somebody else, and another one about the same person or thing, to which no answer was told: of these two the answer must
be none of the person's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from bench.child import until
from bench.daemon import daemon_with
from bench.quality.people import Fact, facts
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from examples.running import Daemon
from lars_agent.errors import LarsError

CLIENTS, REPLY_TOKENS, NIGHT_LIMIT_S = 4, 24, 3 * 3600.0
KINDS = ("trained", "unseen", "others", "untold")
FOREIGN = ("others", "untold")  # to these no value of the person's is an answer
# The rows that have goals: of so many facts, and which arm's score.
GOALS = {
    ("once_recall_weights", 60): ("weights", "unseen"),
    ("once_recall_weights_150", 150): ("weights", "unseen"),
    ("once_recall_both", 60): ("both", "unseen"),
    ("once_recall_next_reply", 60): ("recall", "unseen"),
    ("once_specificity", 60): ("both", "others"),
}


def measure_once(model: Path, subject: Record) -> dict[str, Any]:
    """The scores of every arm, and of the night its steps, seconds and peak; with every wrong reply."""
    known = facts(subject["facts"], subject["seed"])
    with daemon_with(model, 0, **subject["settings"]) as running:
        arms = {"floor": arm_scores(running, known, "base")}
        turns = ({"user": fact.wordings[0], "assistant": fact.correction} for fact in known)
        told = [{"role": role, "content": text} for turn in turns for role, text in turn.items()]
        arms["in_context"] = arm_scores(running, known, "base", told)
        for fact in known:
            body = {"prompt": fact.wordings[0], "response": "I do not know.", "correction": fact.correction}
            running.post("/feedback", body)
        arms["recall"] = arm_scores(running, known, "base", recall=True)
        night = run_night(running)
        arms["weights"] = arm_scores(running, known, "default")
        arms["both"] = arm_scores(running, known, "default", recall=True)
    return {"night": night, "arms": arms}


def run_night(running: Daemon) -> dict[str, Any]:
    """Run a job to its end. Raises LarsError unless its candidate was accepted."""
    job = finished_job(running)
    if job["status"] != "succeeded":
        raise LarsError(f"the night {job['status']}: {job['error']} {(job['verdict'] or {}).get('reasons')}")
    return measured(job)


def finished_job(running: Daemon) -> dict[str, Any]:
    """Run a job to its end, whatever that is."""
    path = f"/jobs/{running.post('/jobs', {'profile': 'default'})['id']}"
    until(lambda: running.get(path)["finished"], NIGHT_LIMIT_S, 1.0)
    return dict(running.get(path))


def measured(job: Record) -> dict[str, Any]:
    """The figures of a finished job. Raises LarsError where it came to no verdict."""
    if job["verdict"] is None:
        raise LarsError(f"the night {job['status']}: {job['error']}")
    names = ("steps", "seconds", "cpu_seconds", "peak_bytes", "candidate", "base")
    return {"status": job["status"]} | {name: job["result"][name] for name in names}


def arm_scores(
    running: Daemon, known: Sequence[Fact], model: str, told: Sequence[Mapping[str, str]] = (), *, recall: bool = False
) -> dict[str, Any]:
    """Ask as `model`, after the turns `told`; return the shares of right replies of each kind, and the wrong ones."""
    asked = questions(known)
    threads = [[*told, {"role": "user", "content": question}] for _, _, question in asked]
    return scores(known, asked, replies_to(running, threads, model, recall=recall))


Question = tuple[str, Fact, str]  # its kind, the fact, and its words


def questions(known: Sequence[Fact]) -> list[Question]:
    """Every question about the facts."""
    asked = [("trained", fact, fact.wordings[0]) for fact in known]
    asked += [("unseen", fact, wording) for fact in known for wording in fact.wordings[1:]]
    asked += [("others", fact, question) for fact in known for question in fact.neighbours]
    return asked + [("untold", one, one.untold) for one in {one.untold: one for one in known if one.untold}.values()]


def scores(known: Sequence[Fact], asked: Sequence[Question], replies: Sequence[str]) -> dict[str, Any]:
    """The share of right replies of each kind, and the wrong ones."""
    values = {fact.value.casefold() for fact in known}
    marks: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    wrong = []
    for (kind, fact, question), reply in zip(asked, replies, strict=True):
        text = reply.casefold()
        is_right = not any(value in text for value in values) if kind in FOREIGN else fact.value.casefold() in text
        marks[kind].append(is_right)
        if not is_right:
            wrong.append([kind, question, reply, fact.value])
    return {kind: round(sum(found) / len(found), 4) for kind, found in marks.items()} | {"wrong": wrong}


def replies_to(
    running: Daemon, conversations: Sequence[Sequence[Mapping[str, str]]], model: str, *, recall: bool = False
) -> list[str]:
    """The greedy replies to some conversations, several at a time."""

    def ask(messages: Sequence[Mapping[str, str]]) -> str:
        body = {"model": model, "messages": messages, "max_tokens": REPLY_TOKENS, "temperature": 0, "recall": recall}
        return str(running.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, conversations))


def settings_key(found: Record) -> tuple[tuple[str, str], ...]:
    """The daemon's settings of a record as a part of its key."""
    return tuple(sorted(found["settings"].items()))


def settings_suffix(found: Record) -> str:
    """The daemon's settings of a record as the end of a row's name."""
    return "".join(f"/{name}={value}" for name, value in found["settings"].items())


def kinds_of(runs: Sequence[Record]) -> list[str]:
    """The kinds of questions that were asked in all runs; earlier ones asked fewer."""
    return [kind for kind in KINDS if all(kind in arm for run in runs for arm in run["arms"].values())]


def once_rows(newest: Newest) -> list[Row]:
    """The scores of each arm for each number of facts and choice of settings, over the seeds."""
    groups: dict[tuple[int, str], list[Record]] = {}
    for found in newest.values():
        groups.setdefault((found["facts"], settings_suffix(found)), []).append(found)
    rows = []
    for (count, chosen), runs in sorted(groups.items()):
        words = {"facts": count, "chosen": chosen, "seeds": len(runs)}
        for arm, kind in product(runs[0]["arms"], kinds_of(runs)):
            values = [run["arms"][arm][kind] for run in runs]
            rows.append(claimed("once_{kind}/{arm}/{facts}{chosen}", values, kind=kind, arm=arm, **words))
        seconds = [run["night"]["cpu_seconds"] for run in runs]
        rows.append(claimed("once_cpu_s/{facts}{chosen}", seconds, **words))
        for (name, facts_then), (arm, kind) in GOALS.items():
            if facts_then == count and not chosen:
                rows.append(claimed(name, [run["arms"][arm][kind] for run in runs], **words))
        if count == 60 and not chosen:
            rows.append(claimed("cpu_seconds_per_100_corrections", [100 * one / count for one in seconds], **words))
    return rows


ONCE = Store(
    "quality-once.jsonl",
    key=lambda found: (found["facts"], found["seed"], *settings_key(found)),
    rows=once_rows,
    shown=("facts", "seed", "settings"),
)
