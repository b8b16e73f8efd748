"""Facts that a person only mentions in a conversation, or in a remark on a wrong reply; nobody presses a button.

In between they say what states no fact about them. What is kept for all that, or is kept wrong, counts as invented.
"""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any

from bench.daemon import daemon_with
from bench.quality.once import REPLY_TOKENS, arm_scores, kinds_of, run_night
from bench.quality.people import Fact, facts
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from examples.running import Daemon

REMARKED = 0.25  # of the facts are asked for, and the reply is remarked on
REMARKS = ("No, {answer}.", "That is wrong, {answer}.", "No, {value}.", "Wrong, it's {value}.")
CHAT = (
    "Can you help me with an email to my landlord?",
    "My code throws an error in line 12.",
    "I think my sister is annoyed with me.",
    "I'm looking for a present for my nephew.",
    "What should I cook for my aunt tonight?",
    "If my car were red, would it be faster?",
    'Translate "my brother lives in Lyon" into French.',
    "Write a story in which my dog is called Ozymandias.",
    "My doctor isn't in today.",
    "I have 12 apples and my cousin takes 5. How many are left?",
    "I would like my boat to be called Nautilus.",
    "Is my cat called Whiskers?",
    "I'm so tired today.",
    "Imagine my uncle is an astronaut.",
    "My essay is about Napoleon.",
    "I read that Anna's horse is called Bucephalus.",
    "Tell me a joke about my dentist.",
    "My tailor said my coat is ready.",
    "Summarize: My grandmother lives in Kyoto. My grandfather lives in Osaka.",
    "Thank you, that is all I need.",
)


def measure_passing(model: Path, subject: Record) -> dict[str, Any]:
    """The scores of every arm, how many of the facts were kept, and what was kept that nobody said."""
    known, rng = facts(subject["facts"], subject["seed"]), random.Random(f"passing {subject['seed']}")
    with daemon_with(model, 0) as running:
        arms = {"floor": arm_scores(running, known, "base")}
        told = [_words(fact, rng) for fact in known]
        turns = [*told, *([text] for text in CHAT)]
        rng.shuffle(turns)
        for texts in turns:
            say(running, texts)
        kept = [row["correction"] for row in _stated(running)]
        arms["recall"] = arm_scores(running, known, "base", recall=True)
        night = run_night(running)
        arms["weights"] = arm_scores(running, known, "default")
        arms["both"] = arm_scores(running, known, "default", recall=True)
    missed = [texts[-1] for fact, texts in zip(known, told, strict=True) if not any(fact.value in one for one in kept)]
    invented = [one for one in kept if not any(fact.value in one for fact in known)]
    return {"night": night, "arms": arms, "kept": len(kept), "missed": missed, "invented": invented}


def _words(fact: Fact, rng: random.Random) -> list[str]:
    """What the person says: a statement, or a question and their remark on its reply."""
    if rng.random() >= REMARKED:
        return [rng.choice(fact.said)]
    answer = fact.correction.replace("You got your", "I got my").replace("Your", "my").rstrip(".")
    return [fact.wordings[0], rng.choice(REMARKS).format(answer=answer, value=fact.value)]


def say(running: Daemon, texts: list[str]) -> None:
    """Say one text after the other in a conversation of their own."""
    turns: list[dict[str, str]] = []
    for text in texts:
        turns.append({"role": "user", "content": text})
        body = {"model": "default", "messages": turns, "max_tokens": REPLY_TOKENS, "temperature": 0}
        reply = running.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        turns.append({"role": "assistant", "content": reply or "?"})


def _stated(running: Daemon) -> list[dict[str, Any]]:
    return list(running.get("/feedback?source=stated&limit=1000")["feedback"])


def passing_rows(newest: Newest) -> list[Row]:
    """The scores of each arm over the seeds, the share of facts that was kept, and what was invented."""
    runs = list(newest.values())
    if not runs:
        return []
    words = {"facts": runs[0]["facts"], "seeds": len(runs)}
    rows = [
        claimed("passing_{kind}/{arm}", [run["arms"][arm][kind] for run in runs], kind=kind, arm=arm, **words)
        for arm, kind in product(runs[0]["arms"], kinds_of(runs))
    ]
    rows.append(claimed("passing_kept", [1 - len(run["missed"]) / run["facts"] for run in runs], **words))
    rows.append(claimed("passing_recall", [run["arms"]["both"]["unseen"] for run in runs], **words))
    return [*rows, claimed("passing_invented", [sum(len(run["invented"]) for run in runs)], **words)]


PASSING = Store(
    "quality-passing.jsonl",
    key=lambda found: (found["facts"], found["seed"]),
    rows=passing_rows,
    shown=("facts", "seed", "kept"),
)
