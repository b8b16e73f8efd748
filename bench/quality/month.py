"""Night after night: new corrections each day, a tenth of which change an earlier fact, rules of style, and chat.

After each night every fact so far is asked for in a wording that was never stored, by the weights alone; at the end all
questions of `arm_scores`, by weights and by weights and recall.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.daemon import daemon_with
from bench.quality.once import arm_scores, finished_job, measured, replies_to, settings_key, settings_suffix
from bench.quality.passing import CHAT, say
from bench.quality.people import Fact, facts, invented_name
from bench.quality.probes import PROBES
from bench.record import Row, claimed
from bench.suite import Newest, Record, Store
from examples.running import Daemon

CHANGED, CHATS = 0.1, 2
NOISE = 0.05  # a night is worse where so many facts are lost by chance, beside those gained, less often than that
# Rules of style: what is asked, the reply that the person wants, what tells that the rule was kept; and about what.
RULES = (
    ("How do I {}?", "To {}, begin slowly and practise. Take your time!", "take your time"),
    ("Tell me something about {}.", "In short: there is much to say about {}.", "in short"),
    ("Do you think I should buy {}?", "Yes, captain, buy {} if you like it.", "captain"),
)
TOPICS = (
    "juggle,bake bread,fold a crane,tie a bow,whistle,skate,draw a horse,sharpen a knife,grow basil,knit a scarf",
    "glaciers,bees,the moon,volcanoes,lighthouses,tea,bridges,owls,salt,windmills",
    "a kite,a lamp,a drum,a rug,a clock,a kettle,a sledge,a hammock,a globe,a telescope",
)
TAUGHT = 6  # of the topics of each rule, one a night; the others are asked for at the end


def measure_month(model: Path, subject: Record) -> dict[str, Any]:
    """Each night's job and what was right after it; at the end the scores of all questions, old values, and style."""
    person, nights = Person(subject), list[dict[str, Any]]()
    with daemon_with(model, 0, **subject["settings"]) as running:
        right: list[bool] = []
        for number in range(subject["nights"]):
            told, before = person.evening(number), right
            for asked, wanted in told:
                running.post("/feedback", {"prompt": asked, "response": "I do not know.", "correction": wanted})
            for text in person.rng.sample(CHAT, CHATS):
                say(running, [text])
            night = measured(finished_job(running))
            right = _right(running, person.known)
            pairs = list(zip(before, right, strict=False))  # of the facts that were asked for the night before too
            changes = {"lost": sum(was > now for was, now in pairs), "gained": sum(now > was for was, now in pairs)}
            nights.append(night | {"facts": len(right), "right": _share(right)} | changes)
        arms = {"weights": arm_scores(running, person.known, "default")}
        arms["both"] = arm_scores(running, person.known, "default", recall=True)
        arms["changed"] = arm_scores(running, [person.known[one] for one in sorted(person.changed)], "default")
        styled = _replies(running, [asked for asked, _ in person.style])
        pairs = zip(_replies(running, PROBES), _replies(running, PROBES, "base"), strict=True)
        style = _share(mark in text.casefold() for (_, mark), text in zip(person.style, styled, strict=True))
        return {"nightly": nights, "arms": arms, "style": style, "probes": _share(now == base for now, base in pairs)}


class Person:
    """Who corrects: what they have told so far, which of it they have changed, and how they want to be answered."""

    def __init__(self, subject: Record) -> None:
        self.rng, self.each = random.Random(f"month {subject['seed']}"), subject["corrections"]
        self.known, self.changed = list[Fact](), set[int]()
        self._new = iter(facts(min(150, subject["nights"] * self.each), subject["seed"]))
        self.style = [
            (asked.format(topic), mark)
            for (asked, _, mark), topics in zip(RULES, TOPICS, strict=True)
            for topic in topics.split(",")[TAUGHT:]
        ]

    def evening(self, number: int) -> list[tuple[str, str]]:
        """Return the questions and corrections of evening `number`; raises ValueError where no new fact is left."""
        named = [index for index, fact in enumerate(self.known) if fact.value.isalpha() and fact.value.istitle()]
        again = self.rng.sample(named, min(len(named), round(CHANGED * self.each)))
        for index in again:
            fact, value = self.known[index], invented_name(self.rng, {fact.value for fact in self.known})
            self.known[index] = replace(fact, value=value, correction=fact.correction.replace(fact.value, value))
        new = list(islice(self._new, self.each - len(again)))
        if len(new) + len(again) < self.each:
            raise ValueError("there are 150 facts; take fewer nights or corrections")
        self.known += new
        self.changed |= set(again)
        told = [(fact.wordings[0], fact.correction) for fact in (*(self.known[index] for index in again), *new)]
        if number < TAUGHT:
            for (asked, wanted, _), topics in zip(RULES, TOPICS, strict=True):
                topic = topics.split(",")[number]
                told.append((asked.format(topic), wanted.format(topic)))
        return told


def _right(running: Daemon, known: Sequence[Fact]) -> list[bool]:
    """Tell of each fact whether the weights alone have it in one of the wordings that were never stored."""
    asked = [fact.wordings[1 + index % (len(fact.wordings) - 1)] for index, fact in enumerate(known)]
    replies = _replies(running, asked)
    return [fact.value.casefold() in text.casefold() for fact, text in zip(known, replies, strict=True)]


def chance(lost: int, gained: int) -> float:
    """Return how likely it is that at least `lost` of all that changed are lost, where either is equally likely.

    It is one side of the sign test.
    """
    changed = lost + gained
    return sum(comb(changed, count) for count in range(lost, changed + 1)) / 2**changed


def _replies(running: Daemon, asked: Sequence[str], model: str = "default") -> list[str]:
    return replies_to(running, [[{"role": "user", "content": question}] for question in asked], model)


def _share(marks: Iterable[bool]) -> float | None:
    found = list(marks)
    return round(fmean(found), 4) if found else None


def month_rows(newest: Newest) -> list[Row]:
    """The scores after the last night, the nights that made it worse, and what the last took against the third."""
    rows = []
    for found in newest.values():
        nightly, arms = found["nightly"], found["arms"]
        words = {"nights": found["nights"], "facts": nightly[-1]["facts"], "each": found["corrections"]}
        words["chosen"] = settings_suffix(found)
        accepted = [night for night in nightly if night["status"] == "succeeded"]
        text = accepted[-1]["candidate"]["text_loss"] / accepted[-1]["base"]["text_loss"] - 1
        values = {
            "month_recall_weights": arms["weights"]["unseen"],
            "month_recall_both": arms["both"]["unseen"],
            "month_specificity": arms["both"]["others"],
            "month_changed_facts": arms["changed"]["unseen"],
            "month_style": found["style"],
            "month_general_loss_rise": text,
            "month_general_probes_kept": found["probes"],
            "month_rejected_nights": len(nightly) - len(accepted),
            "month_cpu_last_night_over_night3": nightly[-1]["cpu_seconds"] / nightly[2]["cpu_seconds"],
            "month_steps_last_night_over_night3": nightly[-1]["steps"] / nightly[2]["steps"],
        }
        if all("lost" in night for night in nightly):
            values["month_worse_nights"] = sum(chance(night["lost"], night["gained"]) < NOISE for night in nightly)
        rows += [claimed(name + "/{nights}x{each}{chosen}", [value], **words) for name, value in values.items()]
    return rows


MONTH = Store(
    "quality-month.jsonl",
    key=lambda found: (found["nights"], found["corrections"], found["seed"], *settings_key(found)),
    rows=month_rows,
    shown=("nights", "corrections", "seed", "settings"),
)
