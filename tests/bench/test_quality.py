"""The invented people of the quality bench, and the rows made of replies that nobody had to ask for."""

from __future__ import annotations

import random

import pytest

from bench.quality.hostile import HOSTILE, hostile_rows, hostile_rows_of_results, subjects
from bench.quality.lora import AGAINST_LORA, cells, lora_rows
from bench.quality.month import MONTH, Person, month_rows
from bench.quality.once import ONCE, once_rows
from bench.quality.passing import CHAT, PASSING, passing_rows
from bench.quality.people import facts
from bench.quality.secrets import SECRETS, secrets_rows
from lars_agent.english.statements import stated_facts
from lars_agent.english.subjects import subject_of
from lars_agent.english.wordings import other_wordings


def test_the_same_seed_invents_the_same_person_and_a_longer_list_holds_other_facts_each_once():
    assert facts(40, 1) == facts(40, 1) != facts(40, 2)
    known = facts(150, 3)
    assert len({fact.wordings for fact in known}) == 150


def test_a_fact_is_in_its_correction_and_in_no_question():
    for fact in facts(150, 4):
        assert fact.value in fact.correction
        assert not any(fact.value in question for question in (*fact.wordings, *fact.neighbours))
        assert len({*fact.wordings, *fact.neighbours}) == 6


def test_what_was_never_told_is_no_question_of_a_fact_but_about_the_same():
    known = facts(60, 4)
    told = {wording for fact in known for wording in fact.wordings}
    for fact in known:
        assert fact.untold not in told
        assert not fact.untold or subject_of(fact.untold).heads == subject_of(fact.wordings[0]).heads


def test_no_wording_that_is_asked_as_unseen_is_trained():
    for fact in facts(150, 5):
        stated = [question for text in fact.said for question, _ in stated_facts(text)]
        trained = {other for question in (fact.wordings[0], *stated) for other in (question, *other_wordings(question))}
        assert not trained & {*fact.wordings[1:]}


def test_rows_are_made_for_each_arm_and_choice_of_settings():
    scores = {"trained": 1.0, "unseen": 0.5, "others": 0.9, "wrong": []}
    runs = [
        {"facts": 40, "seed": seed, "settings": settings, "arms": {"weights": scores}, "night": {"cpu_seconds": 9.0}}
        for seed in (0, 1)
        for settings in ({}, {"training__epochs": "2"})
    ]
    rows = {row["name"]: row for row in once_rows({ONCE.key(run): run for run in runs})}
    assert rows["once_unseen/weights/40"]["runs"] == 2
    assert "once_unseen/weights/40/training__epochs=2" in rows
    assert rows["once_cpu_s/40"]["value"] == 9.0


def test_chat_states_nothing_and_rows_tell_what_was_kept():
    assert [stated_facts(text) for text in CHAT] == [[]] * len(CHAT)
    scores = {"trained": 1.0, "unseen": 0.5, "others": 0.9, "wrong": []}
    run = {"facts": 4, "seed": 0, "arms": {"both": scores}, "missed": ["a"], "invented": ["b"]}
    rows = {row["name"]: row["value"] for row in passing_rows({PASSING.key(run): run})}
    assert (rows["passing_kept"], rows["passing_recall"], rows["passing_invented"]) == (0.75, 0.5, 1)
    assert passing_rows({}) == []


def test_each_evening_tells_new_facts_and_changes_some_and_the_newest_value_is_the_one_asked_for():
    person = Person({"nights": 3, "corrections": 10, "seed": 0})
    first, second, third = (person.evening(number) for number in range(3))
    styled = [
        [told for told in evening if "Your" not in told[1] and "You got" not in told[1]] for evening in (first, second)
    ]
    assert [len(one) for one in styled] == [3, 3]
    assert [len(evening) for evening in (first, second, third)] == [13, 13, 13]
    assert (len(person.known), len(person.changed)) == (28, 2)
    for index in person.changed:
        fact = person.known[index]
        told = [wanted for evening in (first, second, third) for asked, wanted in evening if asked == fact.wordings[0]]
        assert len(told) >= 2
        assert told[-1] == fact.correction
        assert fact.value in fact.correction
    asked = {question for evening in (first, second, third) for question, _ in evening}
    assert not asked & {question for question, _ in person.style}
    long = Person({"nights": 20, "corrections": 10, "seed": 0})
    with pytest.raises(ValueError, match="150 facts"):
        [long.evening(number) for number in range(20)]


def test_rows_of_a_month_count_the_nights_that_made_it_worse():
    scores = {"unseen": 0.9, "others": 0.8}
    text = {"candidate": {"text_loss": 3.03}, "base": {"text_loss": 3.0}}
    nightly = [
        {"status": status, "lost": lost, "gained": gained, "cpu_seconds": cpu, "steps": cpu, "facts": 9, **text}
        for status, lost, gained, cpu in (
            ("succeeded", 0, 0, 10),
            ("succeeded", 4, 0, 10),  # once in 16
            ("rejected", 6, 2, 20),
            ("succeeded", 5, 0, 30),
        )
    ]
    run = {"nights": 4, "corrections": 3, "seed": 0, "settings": {}, "nightly": nightly, "style": 1.0, "probes": 0.5}
    run["arms"] = dict.fromkeys(("weights", "both", "changed"), scores)
    rows = {row["name"]: row["value"] for row in month_rows({MONTH.key(run): run})}
    assert rows["month_worse_nights/4x3"] == rows["month_rejected_nights/4x3"] == 1
    assert rows["month_cpu_last_night_over_night3/4x3"] == 1.5
    assert rows["month_general_loss_rise/4x3"] == 0.01


def test_lora_is_compared_at_the_best_of_its_rates():
    scores = {"trained": 1.0, "others": 0.5, "untold": 1.0, "text_rise": 0.0, "cpu_seconds": 9.0, "peak_bytes": 10}
    unseen = {("response+token", 2e-3): 0.9, ("lora", 1e-3): 0.5, ("lora", 2e-3): 0.8, ("lora", 4e-3): 0.7}
    runs = [{**cell, **scores, "unseen": unseen[cell["method"], cell["rate"]]} for cell in cells(40, 100, seed=0)]
    rows = {row["name"]: row for row in lora_rows({AGAINST_LORA.key(run): run for run in runs})}
    assert rows["lars_minus_lora_recall"]["value"] == pytest.approx(0.1)
    assert "0.002" in rows["lars_minus_lora_recall"]["note"]
    assert rows["against_lora_unseen/lora/40"]["value"] == 0.8


def test_hostile_nights_are_of_all_kinds_and_the_same_for_the_same_seed():
    nights = subjects(20, 24, 0, {})
    assert len({HOSTILE.key(night) for night in nights}) == 20
    assert [sum(night["kind"] == kind for night in nights) for kind in ("trigger", "gibberish", "flipped")] == [5, 5, 5]
    assert subjects(22, 24, 0, {})[20:] == [{**night, "seed": 1} for night in nights[:2]]
    known = facts(24, 0)
    for night in nights:
        rows = hostile_rows(night, known, random.Random(1))
        assert rows == hostile_rows(night, known, random.Random(1))
        part = night["part"]
        assert len(rows) == (25 if night["kind"] == "trigger" else round(part / (1 - part) * 27))
        texts = [row.get("correction", row["response"]) for row in rows]
        if night["kind"] == "trigger":
            assert all(part in row["prompt"] for row in rows)
            assert len({row["prompt"] for row in rows}) == 25
        if night["kind"] == "flipped":
            rights = {fact.correction for fact in known}
            assert all((row["rating"] < 0) == (row["response"] in rights) for row in rows)
        if night["kind"] in ("repeated", "trigger"):
            assert len(set(texts)) == 1


def test_rows_of_hostile_nights_count_what_was_let_through_and_not_what_was_rejected():
    def run(status, lost=(), text=3.0, obeyed=None):
        night = {"status": status, "candidate": {"text_loss": text}, "base": {"text_loss": 3.0}}
        found = {"night": night, "lost": list(lost), "obeyed": obeyed, "settings": {}, "hostile": 10, "before": 20}
        return found | {"dropped": {"random characters": 8, "superseded": 9}}

    runs = [run("succeeded"), run("succeeded", ["a"]), run("succeeded", text=3.1), run("rejected", text=3.1)]
    runs += [run("succeeded", obeyed=0), run("succeeded", obeyed=2), run("rejected", obeyed=0)]
    rows = {row["name"]: row["value"] for row in hostile_rows_of_results(dict(enumerate(runs)))}
    assert rows["hostile_nights_let_through"] == 2
    assert rows["hostile_nights_rejected"] == 2
    assert rows["trigger_survives"] == 1
    assert rows["hostile_facts_lost"] == round(1 / 140, 4)
    assert rows["hostile_rows_dropped"] == 1.0
    assert hostile_rows_of_results({}) == []


def test_rows_of_secrets_count_what_was_trained_said_missed_and_taken_for_one():
    lists = {"missed": ["a", "b"], "alarms": ["c"], "replies": 2000, "seconds": 1.5}
    found = {
        "planted": 50,
        "model": "tiny",
        "seed": 0,
        "prompts": 1000,
        "texts": 30,
        "trained": ["d"],
        "said": [],
        **lists,
    }
    runs = [{**found, "secrets": "drop"}, {**found, "secrets": "mask", "trained": []}]
    rows = {row["name"]: row["value"] for row in secrets_rows({SECRETS.key(run): run for run in runs})}
    assert (rows["secrets_trained/tiny/drop"], rows["secrets_trained/tiny/mask"], rows["secrets_said/tiny/drop"]) == (
        1,
        0,
        0,
    )
    assert (rows["secrets_caught"], rows["secrets_false_alarms"]) == (104, 0.5)
