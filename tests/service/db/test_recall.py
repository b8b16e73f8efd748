"""Recall: which past corrections answer a question."""

from __future__ import annotations

import pytest

from service.db import Database
from service.db import recall as module
from service.db.records import NewFeedback
from tests.service.house import until


def correct(db: Database, question: str, correction: str | None, profile: str = "default") -> str:
    messages = ({"role": "user", "content": question},)
    new = NewFeedback(messages=messages, response="?", correction=correction, rating=1.0, profile=profile)
    return db.feedback.add(new)[0].id


def answers(db: Database, question: str, profile: str = "default", limit: int = 5) -> list[str]:
    return [found.answer for found in db.recall.search(profile, question, limit).corrections]


def test_a_correction_is_found_the_moment_it_is_stored_under_another_wording(db):
    assert answers(db, "Where does my sister live?") == []
    feedback_id = correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    (found,) = db.recall.search("default", "Which town is my sister living in?", 3).corrections
    assert (found.feedback_id, found.answer) == (feedback_id, "Your sister lives in Bergen.")
    assert found.score > 0 or found.score == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    "question",
    [
        "Where does Anna's sister live?",
        "Where does my brother live?",
        "Where does the sister of Anna live?",
        "What is my sister's dog called?",
        "Where does my sister trainer live?",
        "Hello!",
    ],
)
def test_a_question_about_somebody_else_recalls_nothing(db, question):
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    assert answers(db, question) == []


@pytest.mark.parametrize(
    ("question", "is_foreign"),
    [
        ("Where does Anna's sister live?", True),
        ("Where does the sister of Anna live?", True),
        ("Where does my brother live?", True),
        ("Where does my sister live?", False),
        ("What is my sister's name?", True),
        ("What can you tell me about my sister?", False),
        ("Where does she live?", False),
        ("What is the capital of France?", False),
        ("What is France's capital?", False),
    ],
)
def test_a_question_is_foreign_where_nothing_taught_is_about_whom_it_is_about(db, question, is_foreign):
    assert not db.recall.search("default", question, 3).is_foreign  # nothing is taught
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    assert db.recall.search("default", question, 3).is_foreign == is_foreign
    assert not db.recall.search("alice", question, 3).is_foreign


@pytest.mark.parametrize(
    ("question", "is_general"),
    [
        ("What is the capital of France?", True),
        ("Name three fruits.", True),
        ("How do I bake bread?", True),
        ("Where does my sister live?", False),
        ("Where does my brother live?", True),  # foreign
        ("Where does Anna's sister live?", True),
        ("Where does the sister live?", False),
        ("Where does she live?", False),
        ("Where do I live?", False),
        ("How old am I?", False),
        ("What should I cook tonight?", True),
        ("Tell me a joke.", True),
        ("How do I tie a tie?", False),  # taught
        ("Wie heißt meine Schwester?", False),  # no pattern of ours tells whom it is about
    ],
)
def test_a_question_about_nobody_comes_with_what_was_taught_of_such(db, question, is_general):
    assert db.recall.search("default", question, 3).general is None  # nothing is taught
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    correct(db, "How do I tie a tie?", "Slowly.")
    last = correct(db, "How do I tie a bow?", "Take your time.")
    correct(db, "How do I whistle?", None)  # liked: nothing was to be changed
    taught = ("How do I tie a tie?", "How do I tie a bow?")
    assert db.recall.search("default", question, 3).general == (taught if is_general else None)
    db.erasures.feedback(last)
    assert db.recall.search("default", question, 3).general == (taught[:1] if is_general else None)
    assert db.recall.search("alice", question, 3).general is None


def test_what_is_only_like_a_question_about_nobody_tells_that_its_kind_was_taught(db):
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    correct(db, "Tell me something about bees.", "In short: they hum.")
    found = db.recall.search("default", "What do bees eat?", 3)
    assert [(one.answer, one.fit) for one in found.corrections] == [("In short: they hum.", "like")]
    assert found.general == ("Tell me something about bees.",) * 2


TAUGHT = {
    "What is my cat's name?": "Your cat is called Pixel.",
    "When is my dentist appointment?": "Your dentist appointment is on Tuesday at nine.",
    "What is my father allergic to?": "Your father is allergic to shellfish.",
    "What does my daughter study?": "Your daughter studies geology.",
    "Which team do I support?": "You support Rovers.",
    "What is my favourite book?": "Your favourite book is Momo.",
}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the cat's name?", "Pixel"),
        ("the cat's name?", "Pixel"),
        ("Is my cat called Pixel?", "Pixel"),
        ("My cat - what's she called?", "Pixel"),
        ("Who is Pixel?", "Pixel"),
        ("When do I have to go to the dentist?", "Tuesday"),
        ("Do I see the dentist on Tuesday?", "Tuesday"),
        ("Which food makes my dad ill?", "shellfish"),
        ("What must I leave out of a dish for my father because he is allergic?", "shellfish"),
        ("What should I not cook for my father tonight?", "shellfish"),
        ("What should I buy for my daughter before Christmas?", "geology"),
        ("What's my daughter's subject?", "geology"),
        ("What is my team?", "Rovers"),
        ("Which book do I like best?", "Momo"),
        ("Which novel is my favourite?", "Momo"),
    ],
)
def test_what_is_asked_in_the_words_of_everyday_is_found(db, question, answer):
    for asked, wanted in TAUGHT.items():
        correct(db, asked, wanted)
    found = db.recall.search("default", question, 5)
    assert any(answer in one.answer for one in found.corrections)
    assert (found.is_foreign, found.general) == (False, None)


@pytest.mark.parametrize(
    "question",
    [
        "Is a cat a mammal?",
        "Do cats dream?",
        "Where do whales live?",
        "What colour is the sky?",
        "What does a dentist earn?",
        "What is on Tuesday?",
        "Name a shellfish.",
        "What is geology?",
        "How do I choose a team?",
        "Which book won the Booker prize?",
        "What time is it?",
    ],
)
def test_a_word_that_all_use_is_not_what_somebody_of_the_speakers_is_about(db, question):
    for asked, wanted in TAUGHT.items():
        correct(db, asked, wanted)
    found = db.recall.search("default", question, 5)
    assert (found.corrections, found.general) == ([], ())


def test_an_answer_for_my_mother_takes_the_place_of_that_for_my_mom(db):
    correct(db, "Where does my mom live?", "Your mom lives in Bergen.")
    assert answers(db, "In which town does my mother live?") == ["Your mom lives in Bergen."]
    correct(db, "Where does my mother live?", "Your mother lives in Oslo.")
    assert answers(db, "Where does my mama live?") == ["Your mother lives in Oslo."]
    assert answers(db, "Where does mum live?") == ["Your mother lives in Oslo."]


def test_a_name_that_both_have_is_enough_in_any_language(db):
    correct(db, "Wo wohnt meine Schwester?", "Deine Schwester wohnt in Bergen.")
    correct(db, "What does Nils play?", "Nils plays the bassoon.")
    assert answers(db, "In welcher Stadt wohnt meine Schwester?") == ["Deine Schwester wohnt in Bergen."]
    assert answers(db, "Wo wohnt mein Bruder?") == []
    assert answers(db, "which instrument is it that nils learns from Ms Weber?") == ["Nils plays the bassoon."]
    assert answers(db, "What does Tom play?") == []


def test_what_a_liked_reply_says_is_taught_too_but_not_recalled(db):
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    liked = correct(db, "Where does my brother live?", None)
    found = db.recall.search("default", "Where does my brother live?", 3)
    assert (found.corrections, found.is_foreign) == ([], False)
    db.erasures.feedback(liked)
    assert db.recall.search("default", "Where does my brother live?", 3).is_foreign


def test_the_newest_answer_counts_whatever_the_words_of_its_question(db):
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    correct(db, "What is my sister's home town?", "Your sister lives in Oslo.")
    assert answers(db, "Where does my sister live?") == ["Your sister lives in Oslo."]


def test_another_attribute_is_left_out_where_this_one_is_known_and_no_answer_where_it_is_not(db):
    correct(db, "What is my goat called?", "Your goat is called Pip.")
    correct(db, "How old is my goat?", "Your goat is 7.")
    assert answers(db, "Tell me my goat's name.") == ["Your goat is called Pip."]
    found = db.recall.search("default", "What colour is my goat?", 3)
    assert (found.corrections, found.is_foreign) == ([], True)
    found = db.recall.search("default", "What do you know of my goat?", 3)
    assert ([one.fit for one in found.corrections], found.is_foreign) == (["same", "same"], False)
    found = db.recall.search("default", "Which allergy does my goat have?", 3)  # a noun may ask for anything
    assert (len(found.corrections), found.is_foreign) == (2, False)


def test_a_liked_reply_does_not_take_the_place_of_the_correction(db):
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    liked = correct(db, "Where does my sister live?", None)
    assert answers(db, "Where does my sister live?") == ["Your sister lives in Bergen."]
    db.erasures.feedback(liked)
    assert answers(db, "Where does my sister live?") == ["Your sister lives in Bergen."]


def test_the_owner_in_a_past_question_has_to_be_in_the_new_one(db):
    correct(db, "What is my sister's dog called?", "Your sister's dog is called Rex.")
    assert answers(db, "What is my dog called?") == []
    assert answers(db, "Which name has my sister's dog?") == ["Your sister's dog is called Rex."]


def test_a_question_that_says_not_whom_it_is_about_needs_half_of_its_words(db):
    correct(db, "How do we make the Friday soup?", "With barley.")
    assert answers(db, "How is the soup of Friday made?") == ["With barley."]
    assert answers(db, "What is the capital of Friday island kingdoms?") == []


def test_an_answer_to_the_question_itself_is_told_from_one_to_a_question_like_it(db):
    correct(db, "Write a haiku about rain.", "Rain on the roof.")
    correct(db, "What is my dog called?", "Your dog is called Rex.")
    (same,) = db.recall.search("default", "A haiku about rain, please.", 3).corrections
    (like,) = db.recall.search("default", "Write a haiku about snow.", 3).corrections
    (owned,) = db.recall.search("default", "Which name has my old dog?", 3).corrections
    assert (same.fit, like.fit, owned.fit) == ("same", "like", "same")


def test_the_best_come_first_and_no_more_than_asked_for(db):
    for town, what in (("Bergen", "live"), ("Oslo", "work"), ("Narvik", "park")):
        correct(db, f"Where does my sister {what}?", f"Your sister {what}s in {town}.")
    assert answers(db, "In which city does my sister work?", limit=1) == ["Your sister works in Oslo."]
    assert len(answers(db, "my sister", limit=2)) == 2
    assert answers(db, "my sister", limit=0) == []


def test_each_profile_recalls_its_own(db):
    correct(db, "Where is my hat?", "On the hook.", profile="alice")
    assert answers(db, "Where is my hat?") == []
    assert answers(db, "Where is my hat?", profile="alice") == ["On the hook."]


def test_the_newest_answer_counts_and_the_older_one_again_once_that_is_deleted(db):
    correct(db, "Where is my hat?", "On the hook.")
    assert answers(db, "Where is my hat?") == ["On the hook."]
    newer = correct(db, "Where is my hat?", "In the car.")
    assert answers(db, "Where is my hat?") == ["In the car."]
    db.erasures.feedback(newer)
    assert answers(db, "Where is my hat?") == ["On the hook."]


def test_what_is_deleted_while_something_else_comes_is_gone(db):
    gone = correct(db, "Where is my hat?", "On the hook.")
    assert answers(db, "Where is my hat?")
    db.erasures.feedback(gone)
    correct(db, "Where is my coat?", "In the hall.")
    assert answers(db, "Where is my hat?") == []
    assert answers(db, "Where is my coat?") == ["In the hall."]


def test_only_corrections_are_recalled(db):
    correct(db, "Where is my hat?", None)
    assert answers(db, "Where is my hat?") == []


@pytest.mark.parametrize("question", ['"', "NEAR(", "a AND OR NOT *", "my hat'; DROP", "-", "", "?!", "ß " * 5000])
def test_any_text_can_be_asked(db, question):
    correct(db, "Where is my hat?", "On the hook.")
    db.recall.search("default", question, 3)


def store_things(db, count: int) -> None:
    """Corrections that tell in which box each of so many things is."""
    news = [
        NewFeedback(
            messages=({"role": "user", "content": f"Where is my thing{number}?"},),
            response="?",
            correction=f"In box {number}.",
        )
        for number in range(count)
    ]
    db.imports.store([news], len(news))


def test_ten_thousand_corrections_are_searched(db):
    store_things(db, 10_000)
    assert answers(db, "Where did I leave my thing7777?", limit=1) == ["In box 7777."]


def test_many_rows_at_once_are_taken_in_while_searches_go_on(db, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 5)
    monkeypatch.setattr(module, "SOME", 2)
    correct(db, "Where is my hat?", "On the hook.")
    assert answers(db, "Where is my hat?") == ["On the hook."]
    store_things(db, 40)
    assert answers(db, "Where is my hat?", limit=1) == ["On the hook."]
    until(lambda: answers(db, "Where is my thing39?", limit=1) == ["In box 39."], "all are taken in")
    gone = db.feedback.list(limit=1)[0].id
    db.erasures.feedback(gone)
    assert "In box 39." not in answers(db, "Where is my thing39?", limit=1)
    until(lambda: answers(db, "Where is my thing38?", limit=1) == ["In box 38."], "what is left is taken in anew")


def test_a_secret_is_not_recalled_nor_what_it_replaced(db):
    correct(db, "What is the password of my router?", "Ask my sister.")
    assert answers(db, "What is the password of my router?") == ["Ask my sister."]
    correct(db, "What is the password of my router?", "hunter2blue")
    assert answers(db, "What is the password of my router?") == []
    correct(db, "What colour is my router?", "Your router is blue.")
    assert answers(db, "What colour is my router?") == ["Your router is blue."]


@pytest.mark.parametrize(
    ("question", "fit"),
    [
        ("Where does my choir meet to sing?", "same"),
        ("Does my choir sing in the town hall?", "same"),
        ("When does my choir sing?", "like"),
        ("Who leads my choir?", "like"),
        ("How many of us sing in my choir?", "like"),
    ],
)
def test_an_answer_of_another_kind_than_is_asked_for_is_no_answer(db, question, fit):
    correct(db, "In which hall does my choir sing?", "Your choir sings in the town hall.")
    (found,) = db.recall.search("default", question, 3).corrections
    assert found.fit == fit


@pytest.mark.parametrize(
    "question",
    [
        "Who has to sweep the stairs this week?",
        "stairwell, who?",
        "Which of us cleans the stairs?",
        "Is it my turn to clean the stairwell again?",
    ],
)
def test_what_may_be_asked_in_quite_other_words_perhaps_fits(db, question):
    correct(db, "Where does my sister live?", "Your sister lives in Bergen.")
    correct(db, "Whose turn is it to clean the stairs or the stairwell?", "It is Mr Abara's turn.")
    found = db.recall.search("default", question, 3).corrections
    assert [one.answer for one in found] == ["It is Mr Abara's turn."]
