"""Whom or what a question is about."""

from __future__ import annotations

import pytest

from lars_agent.english.subjects import about_anything, subject_of


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("What is my old dog called?", "dog"),
        ("Call my dog, please.", "dog"),
        ("Does my sister drink tea?", "sister"),
        ("What is my sister allergic to?", "sister"),
        ("Which town is my sister living in?", "sister"),
        ("What does my sister prefer to drink?", "sister"),
        ("What is the name of my piano?", "piano"),
        ("What is my piano teacher called?", "teacher"),
        ("Where does my piano teacher live?", "teacher"),
        ("What can my piano teacher not eat?", "teacher"),
        ("Which drink should I offer my piano teacher?", "teacher"),
        ("Your piano teacher is called Ida.", "teacher"),
        ("Your shoe size is 44.", "size"),
        ("What is my sister's dog called?", "dog"),
        ("What's my sister's name?", "sister"),
        ("What is my wife’s favourite film?", "wife"),
        ("What should I leave out of a meal for my wife because of an allergy?", "wife"),
        ("What did I buy for my wife last Christmas?", "wife"),
        ("Is there a song my wife likes?", "wife"),
        ("Which food makes my wife ill?", "wife"),
        ("Is there anything my wife cannot eat?", "wife"),
        ("My wife - where does she work?", "wife"),
        ("Is my dog called Rex?", "dog"),
        ("What is my favourite book?", "book"),
        ("What is my daughter's subject?", "daughter"),
        ("Is my piano teacher at home?", "teacher"),
        ("Is my brother better at chess?", "brother"),
    ],
)
def test_the_head_is_told_from_what_stands_before_and_behind_it(text, head):
    assert subject_of(text).heads == {head}


@pytest.mark.parametrize("text", ["", "my", "Is it mine?", "my my my", "your?", "'s", "my 's dog's"])
def test_any_text_has_a_subject_or_none(text):
    subject_of(text)


def test_what_may_be_the_head_is_shared_with_what_surely_is_one_alone():
    size, shoe, drinks = (subject_of(text) for text in ("Your shoe size is 44.", "Is my shoe size 44?", "my sister"))
    assert size.shares(shoe)
    assert shoe.shares(size)
    assert not subject_of("What is my dog called?").shares(subject_of("What is my cat called?"))
    assert not drinks.shares(subject_of("Your brother drinks tea."))


def test_owners_and_names_are_kept_apart_from_what_is_the_speakers_own():
    subject = subject_of("Where does Anna's sister meet Bo?")
    assert (subject.heads, subject.owners, subject.names) == (set(), {"anna"}, {"anna", "bo"})
    assert not subject_of("What is it?").is_shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is my goat called?", "What is my one called?"),
        ("Which is the home of my old piano teacher?", "Which is the home of my one?"),
        ("What colour is my sister's car?", "What colour is my sister's car?"),
        ("Where does Anna live?", "Where does Anna live?"),
        ("What is my name?", "What is my name?"),
    ],
)
def test_what_is_asked_is_told_from_whom_it_is_about(text, expected):
    assert about_anything(text) == expected
