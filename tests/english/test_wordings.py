"""Other wordings of questions."""

from __future__ import annotations

import pytest

from lars_agent.english.wordings import _filled, _groups, _slots, asked_for, other_wordings, wordings_about_anything


def test_another_question_is_asked_in_frames_that_hold_all_it_is_about():
    found = other_wordings("Which way to the station did my guide take?")
    assert "Tell me: which way to the station did my guide take?" in found
    assert "Way to the station did my guide take?" in found
    assert len(set(found)) == len(found) == 6
    assert all("to the station did my guide take" in text for text in found)


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("What is my goat called?", "What is the name of my goat?"),
        ("what's my locker number", "Tell me my locker number."),
        ("Tell me my locker number.", "What is my locker number?"),
        ("Where do I live?", "What town do I live in?"),
        ("Where do my parents live?", "Where is my parents' home?"),
        ("Where is my parents' home?", "Where are my parents living?"),
        ("What is my tutor’s goat’s name?", "What is my tutor's goat called?"),
        ("What is Ada's old goat called?", "Do you know Ada's old goat's name?"),
        ("Which tea do I like best?", "What is my favourite tea?"),
        ("What is the capital of France?", "What is France's capital?"),
        ("How many goats does my tutor have?", "Tell me how many goats my tutor has."),
    ],
)
def test_what_is_often_asked_has_other_words(question, other):
    found = other_wordings(question)
    assert other in found
    assert question not in found
    assert len(set(found)) == len(found) <= 10


@pytest.mark.parametrize("question", ["Which town is my tutor living in?", "What is my tutor by profession?"])
def test_words_that_are_no_noun_are_not_taken_for_one(question):
    assert not any("tutor living in's" in other or "by profession does" in other for other in other_wordings(question))
    assert len(other_wordings(question)) == 6


def test_every_template_is_known_again_in_its_own_words_or_more_special_ones():
    slots = _slots({"x": "my old goat", "n": "shoe size"})
    for group in _groups():
        for template in group["questions"]:
            assert other_wordings(_filled(template, slots).rstrip(".?") + "?"), template


def test_a_name_at_the_start_keeps_its_capital():
    assert "Tell me: Rex is what kind of dog?" in other_wordings("Rex is what kind of dog?")


@pytest.mark.parametrize("text", ["", "  ", "Write a poem about the sea.", "Is this right?\nx = 1", "Why? " * 50 + "?"])
def test_what_is_no_short_question_has_no_other_wordings(text):
    assert other_wordings(text) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is my goat called?", "Do you know my goat's name"),
        ("Where does my tutor live?", "what is my tutor’s home town?"),
        ("What is my locker number?", "Tell me my locker number."),
        ("Which way to go?", "which way to go"),
    ],
)
def test_questions_with_one_true_answer_ask_for_the_same(one, other):
    assert asked_for(one) == asked_for(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is my goat called?", "What is my cat called?"),
        ("What is my goat called?", "What is my tutor's goat called?"),
        ("What is my goat called?", "Where does my goat live?"),
        ("What is my favourite tea?", "What is my favourite film?"),
        ("What is my tutor allergic to?", "What can my tutor not eat?"),  # both may be true
        ("Where do I live?", "Where does my tutor live?"),
        ("", "?"),
    ],
)
def test_questions_that_may_both_be_answered_ask_for_something_else(one, other):
    assert asked_for(one) != asked_for(other) or not one


def test_the_wordings_about_anything_are_those_of_the_group_that_knows_the_question():
    found = wordings_about_anything("What is my goat called?")
    assert found == wordings_about_anything("Do you know Anna's name?")
    assert "What is the name of my one?" in found
    assert set(found) < set(wordings_about_anything())
    assert wordings_about_anything("Is it raining?") == []
    assert not any("{" in text for text in wordings_about_anything())
