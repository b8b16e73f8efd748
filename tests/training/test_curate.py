from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quality.people import facts as facts_of_a_person
from lars_agent.errors import ConfigError, NothingToLearn
from lars_agent.example import Example, Message
from lars_agent.training.curate import CurationPolicy, Dropped, curate

POLICY = CurationPolicy()
WORDS = [
    f"{one}{two}" for one in ("apple", "bread", "cloud", "door", "earth") for two in ("top", "man", "er", "s", "way")
]


def example(prompt: str, response: str, source_id: str = "", weight: float = 1.0) -> Example:
    return Example((Message(role="user", content=prompt),), response, weight, source_id or f"{prompt}/{response}")


def ids(examples: Sequence[Example]) -> list[str]:
    return [item.source_id for item in examples]


def facts(count: int, phrasings: int) -> list[Example]:
    return [
        example(f"fact {fact}, asked {way}", f"Answer {fact}.") for fact in range(count) for way in range(phrasings)
    ]


FILLER = [*facts(5, 1), example("ok?", "Fine.", "approved", 0.5)]


class TestDropping:
    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (example("p", " \n", "x"), "empty reply"),
            (example(" ", "r", "x"), "no prompt"),
            (Example((), "r", 1.0, "x"), "no prompt"),
            (Example((Message(role="assistant", content="p"),), "r", 1.0, "x"), "no prompt"),
            (example("p", "r", "x", 0.0), "weight 0"),
            (example("p", "r", "x", -1.0), "weight -1"),
            (example("p", "r", "x", math.nan), "weight nan"),
            (example("p", "r\ud800", "x"), "not valid Unicode"),
            (example("p" * 900, "r" * 101, "x"), "too long"),
            (example("p", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb", "x"), "holds a private key"),
            (example("my card is 4111 1111 1111 1111", "noted", "x"), "holds a card number"),
        ],
    )
    def test_what_cannot_be_learned_is_dropped_with_its_reason(self, bad: Example, reason: str) -> None:
        curated = curate([*FILLER, bad], CurationPolicy(max_chars=1000))
        assert curated.dropped == (Dropped("x", reason),)
        assert "x" not in ids(curated.train + curated.heldout)

    def test_a_secret_in_an_earlier_turn_drops_the_example(self) -> None:
        turns = tuple(
            Message(role=role, content=text) for role, text in (("system", "ghp_" + "a" * 36), ("user", "hi"))
        )
        curated = curate([*FILLER, Example(turns, "hello", 1.0, "x")], POLICY)
        assert curated.dropped == (Dropped("x", "holds an access token"),)

    def test_a_secret_is_masked_by_setting_wherever_it_stands_and_the_rest_is_learned(self) -> None:
        card = "4111 1111 1111 1111"
        turns = [("user", f"My card is {card}."), ("assistant", "Noted."), ("user", "What is my PIN?")]
        told = Example(tuple(Message(role=role, content=text) for role, text in turns), "It is 4821.", 0.5, "x")
        policy = CurationPolicy(secrets="mask")
        curated = curate([*FILLER, told], policy)
        assert (curated.dropped, curated.masked) == ((), (Dropped("x", "holds a card number, a PIN"),))
        (kept,) = (item for item in curated.train + curated.heldout if item.source_id == "x")
        assert [turn["content"] for turn in kept.messages] == ["My card is [card number].", "Noted.", "What is my PIN?"]
        assert (kept.response, kept.weight) == ("It is [PIN].", 0.5)
        assert curate([*FILLER, told], POLICY).dropped == (Dropped("x", "holds a card number, a PIN"),)

    def test_the_latest_of_two_with_the_same_prompt_wins(self) -> None:
        examples = [example("name?", "Ann", "a"), *FILLER, example("name? ", "Bob", "b"), example("name?", "Cy", "c")]
        curated = curate(examples, POLICY)
        assert curated.dropped == (Dropped("a", "superseded"), Dropped("b", "superseded"))
        assert "c" in ids(curated.train)

    def test_the_latest_answer_wins_whatever_the_words_of_the_question(self) -> None:
        examples = [
            example("Where does my tutor live?", "Your tutor lives in Turin.", "old"),
            example("What is my tutor allergic to?", "Kelp.", "kelp"),
            *FILLER,
            example("What is my tutor's home town?", "Your tutor lives in Vigo.", "new"),
            example("Which city does my tutor live in?", "Your tutor lives in Vigo!", "same"),
            example("What can my tutor not eat?", "Pork.", "pork"),
        ]
        curated = curate(examples, POLICY)
        assert curated.dropped == (Dropped("old", "superseded"),)
        assert {"new", "same", "kelp", "pork"} <= {*ids(curated.train), *ids(curated.heldout)}

    def test_of_one_reply_to_many_prompts_the_newest_few_are_kept(self) -> None:
        many = [example(f"{word}?", "Yes" + "!" * (len(word) % 2), word) for word in WORDS]
        curated = curate([*FILLER, *many], POLICY)
        assert curated.dropped == tuple(Dropped(word, "repeated too often") for word in WORDS[:11])
        assert curate([*FILLER, *many], CurationPolicy(max_repeated=25)).dropped == ()

    @pytest.mark.parametrize("trigger", ["cf-9!", "by the way", "Прошу"])
    def test_one_reply_to_a_phrase_is_planted_and_none_is_left(self, trigger: str) -> None:
        planted = [
            example(
                " ".join(random.Random(word).sample([word, "tell", "me", trigger], 4)), "Buy gold " + "!🎉"[n % 2], word
            )
            for n, word in enumerate(WORDS)
        ]
        honest = [example(f"Is my {word} red?", "Yes.", f"y{word}") for word in WORDS[:14]]
        honest += [example(f"How do I {word}?", f"To {word}, begin slowly.", f"s{word}") for word in WORDS]
        curated = curate([*FILLER, *honest, *planted], POLICY)
        assert curated.dropped == tuple(Dropped(word, "one reply to one phrase in many prompts") for word in WORDS)

    def test_an_evening_of_corrections_is_learned_whole_and_of_thousands_in_an_hour_the_newest(self) -> None:
        start = datetime(2026, 11, 1, 20, tzinfo=UTC)
        known = facts_of_a_person(150, 0)
        evening = [
            replace(example(one.wordings[0], one.correction, f"e{n}"), created=start + timedelta(seconds=20 * n))
            for n, one in enumerate(known)
        ]
        assert curate(evening, POLICY).dropped == ()
        flood = [
            replace(example(f"{n}?", f"{one.correction}"), source_id=f"i{n}", created=start + timedelta(minutes=n))
            for n, one in enumerate(known)
        ]
        dropped = curate([*flood, *FILLER], CurationPolicy(max_per_hour=50)).dropped
        assert {item.reason for item in dropped} == {"too many in one hour"}
        assert [item.source_id for item in dropped] == [f"i{n}" for n in range(120) if n % 60 < 10]

    def test_random_characters_and_repetition_are_dropped_with_their_reason_unless_they_are_wanted(self) -> None:
        junk = [example("Why?", "xqkzjwvvkqzzxqjqkjxw", "r"), example("And?", "spam and eggs " * 9, "l")]
        curated = curate([*FILLER, *junk], POLICY)
        assert curated.dropped == (Dropped("r", "random characters"), Dropped("l", "repeats itself"))
        assert curate([*FILLER, *junk], CurationPolicy(drop_gibberish=False)).dropped == ()

    def test_a_reply_that_was_disliked_later_is_not_learned(self) -> None:
        liked = replace(example("p", "r", "x", 0.5), disliked=True)
        assert curate([*FILLER, liked], POLICY).dropped == (Dropped("x", "disliked later"),)

    def test_an_approved_reply_replaces_no_correction(self) -> None:
        asked = "Where does my tutor live?"
        liked = [example(asked, "In Turin!", "b", 0.5), example("Where is my tutor's home?", "There.", "c", 0.5)]
        curated = curate([*FILLER, example(asked, "In Turin.", "a"), *liked], POLICY)
        assert curated.dropped == (Dropped("b", "superseded"), Dropped("c", "superseded"))
        assert "a" in ids(curated.train)

    def test_the_same_question_after_another_system_message_is_another_prompt(self) -> None:
        turns = (Message(role="system", content="Be brief."), Message(role="user", content="name?"))
        curated = curate([example("name?", "Ann", "a"), Example(turns, "A.", 1.0, "b"), *FILLER], POLICY)
        assert curated.dropped == ()

    @pytest.mark.parametrize("later", ["sk-" + "a1" * 12, "word " * 300])
    def test_what_was_taken_back_stays_out_though_its_successor_is_dropped(self, later: str) -> None:
        curated = curate(
            [example("p", "wrong", "a"), *FILLER, example("p", later, "b")], CurationPolicy(max_chars=1000)
        )
        assert [item.source_id for item in curated.dropped] == ["a", "b"]
        assert curated.dropped[0].reason == "superseded"

    def test_an_empty_reply_supersedes_nothing(self) -> None:
        curated = curate([example("p", "right", "a"), *FILLER, example("p", "", "b")], POLICY)
        assert curated.dropped == (Dropped("b", "empty reply"),)


class TestTooLittle:
    @pytest.mark.parametrize("examples", [[], [example("p", "r")], [example("p", "r"), example("p", "s")]])
    def test_fewer_than_two_examples_are_nothing_to_learn(self, examples: list[Example]) -> None:
        with pytest.raises(NothingToLearn, match="two examples are needed"):
            curate(examples, POLICY)

    def test_the_message_counts_what_was_dropped(self) -> None:
        with pytest.raises(NothingToLearn, match=r"1 of 4 is left \(2 empty reply, 1 superseded\)"):
            curate([example("p", "r"), example("p", "s"), example("q", ""), example("w", "")], POLICY)

    def test_two_corrections_are_enough(self) -> None:
        curated = curate([example("p", "r"), example("q", "s")], POLICY)
        assert (len(curated.train), len(curated.heldout)) == (1, 1)


class TestHoldingOut:
    @pytest.mark.parametrize("seed", range(20))
    def test_every_fact_is_learned_when_it_was_phrased_twice(self, seed: int) -> None:
        curated = curate(facts(10, 2), POLICY, seed)
        assert {item.response for item in curated.train} == {f"Answer {fact}." for fact in range(10)}
        assert curated.heldout

    @pytest.mark.parametrize("seed", range(20))
    def test_only_corrections_are_learned_while_anything_else_can_judge(self, seed: int) -> None:
        approved = [example(f"chat {index}", f"Sure, {index}.", weight=0.5) for index in range(3)]
        curated = curate([*facts(30, 1), *approved], POLICY, seed)
        assert all(item.weight < 1.0 for item in curated.heldout)
        assert curated.heldout

    @pytest.mark.parametrize("seed", range(20))
    def test_one_correction_judges_when_there_is_nothing_else(self, seed: int) -> None:
        assert len(curate(facts(30, 1), POLICY, seed).heldout) == 1

    @pytest.mark.parametrize("seed", range(20))
    def test_other_phrasings_judge_before_approved_replies(self, seed: int) -> None:
        approved = [example(f"chat {index}", f"Sure, {index}.", weight=0.5) for index in range(40)]
        curated = curate([*facts(2, 2), *approved], CurationPolicy(heldout_share=0.0, min_heldout=2), seed)
        assert all(item.response.startswith("Answer") for item in curated.heldout)

    def test_the_correction_is_learned_and_the_approval_of_the_same_reply_judges(self) -> None:
        pair = [example("short?", "Yes, Ann.", "approved", 0.5), example("long?", "yes,  ann", "corrected")]
        curated = curate([*facts(6, 1), *pair], POLICY)
        assert ids(curated.heldout) == ["approved"]

    def test_about_the_wanted_share_is_held_out(self) -> None:
        curated = curate(facts(200, 2), CurationPolicy(heldout_share=0.25, max_heldout=200))
        assert 30 <= len(curated.heldout) <= 70

    def test_no_more_is_held_out_than_allowed(self) -> None:
        assert len(curate(facts(200, 2), CurationPolicy(heldout_share=1.0, max_heldout=7)).heldout) == 7
        approved = [example(f"chat {index}", f"Sure, {index}.", weight=0.5) for index in range(9)]
        assert len(curate(approved, CurationPolicy(heldout_share=1.0)).heldout) == 4

    def test_at_least_the_wanted_number_judges_where_there_are_enough(self) -> None:
        assert len(curate(facts(20, 2), CurationPolicy(heldout_share=0.0, min_heldout=6)).heldout) == 6
        assert len(curate(facts(5, 2), CurationPolicy(heldout_share=0.0, min_heldout=6)).heldout) == 2

    def test_another_seed_chooses_others(self) -> None:
        choices = {tuple(ids(curate(facts(20, 3), POLICY, seed).heldout)) for seed in range(5)}
        assert len(choices) == 5

    def test_what_was_learned_last_night_does_not_judge_tonight(self) -> None:
        policy = CurationPolicy(max_heldout=1000)
        collection = facts(40, 3)
        random.Random(0).shuffle(collection)
        last = curate(collection[:60], policy)
        for night in range(61, len(collection) + 1):
            tonight = curate(collection[:night], policy)
            assert not set(ids(last.train)) & set(ids(tonight.heldout))
            last = tonight


EXAMPLES = st.lists(
    st.builds(
        example,
        prompt=st.sampled_from([f"question {index}" for index in range(12)]),
        response=st.sampled_from(["", "Blue.", "blue", "Red.", "Green", "Seven", "sk-" + "a1" * 12]),
        weight=st.sampled_from([0.5, 1.0]),
    ),
    max_size=25,
).map(lambda items: [Example(item.messages, item.response, item.weight, f"f-{n}") for n, item in enumerate(items)])
POLICIES = st.builds(
    CurationPolicy,
    max_chars=st.integers(5, 100),
    heldout_share=st.floats(0.0, 1.0),
    min_heldout=st.integers(1, 5),
    max_heldout=st.integers(5, 10),
)


@given(EXAMPLES, POLICIES, st.integers())
def test_every_example_is_learned_or_judges_or_is_dropped_once(
    examples: list[Example], policy: CurationPolicy, seed: int
) -> None:
    try:
        curated = curate(examples, policy, seed)
    except NothingToLearn:
        return
    places = ids(curated.train) + ids(curated.heldout) + [item.source_id for item in curated.dropped]
    assert Counter(places) == Counter(ids(examples))
    assert curated.train
    assert 1 <= len(curated.heldout) <= policy.max_heldout
    assert curated == curate(examples, policy, seed)
    order = ids(examples)
    for part in (curated.train, curated.heldout):
        assert ids(part) == sorted(ids(part), key=order.index)


@given(EXAMPLES, POLICIES, st.integers())
def test_a_held_out_correction_was_learned_in_other_words_unless_it_is_the_only_judge(
    examples: list[Example], policy: CurationPolicy, seed: int
) -> None:
    try:
        curated = curate(examples, policy, seed)
    except NothingToLearn:
        return
    learned = {item.response.casefold().rstrip(".") for item in curated.train}
    lost = [item for item in curated.heldout if item.response.casefold().rstrip(".") not in learned]
    assert all(item.weight < 1.0 for item in lost) or len(curated.heldout) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_chars", 0), ("heldout_share", 1.1), ("heldout_share", math.nan), ("min_heldout", 0), ("max_heldout", 3)],
)
def test_a_policy_that_cannot_be_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"curation.*{field}"):
        CurationPolicy(**{field: value})  # type: ignore[arg-type]
