"""Other wordings of questions."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lars_agent.english.wordings import (
    FORMS,
    PLURAL,
    SLOT,
    Group,
    Recognized,
    _filled,
    _groups,
    _plain,
    _recognized,
    _reworded,
    _slots,
    asked_for,
    other_wordings,
    topic_of,
    wordings_about_anything,
)

PEOPLE = ("I", "we", "my sister", "my parents", "Anna", "my dog's collar")
TEMPLATES = [(group, template) for group in _groups() for template in group["questions"]]
# A person's name is asked for as any name is: a role alone does not tell them apart.
NAMES_OF_ROLES = ("What is the name of {xs} {n}?", "What is {xs} {n} called?")


def filled(template: str, person: str, noun: str = "locker code") -> str:
    verbs = {"is": "are"} if person == "my parents" else {}
    return _filled(template, _slots({"x": person, "n": noun} | verbs))


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
        ("whats my goat called again?", "Remind me what my goat is called."),
        ("Could you tell me: where does my tutor live?", "Where is my tutor based?"),
        ("I can't recall where my tutor lives.", "Where does my tutor reside?"),
        ("how does my aunt make her money", "What is my aunt's trade?"),
        ("How does my uncle take his coffee?", "What does my uncle put in his coffee?"),
        ("What is our Wi-Fi called?", "Which wifi network do we use?"),
        ("what is my favorite color?", "Which shade do I like best?"),
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
    known = _recognized(_plain(question))
    assert known is not None
    assert other in _reworded(known, question)
    found = other_wordings(question)
    assert question not in found
    assert 8 <= len(set(found)) == len(found) <= 10


@pytest.mark.parametrize("question", ["Which town is my tutor living in?", "What is my tutor by descent?"])
def test_words_that_are_no_noun_are_not_taken_for_one(question):
    assert not any("tutor living in's" in other or "by descent does" in other for other in other_wordings(question))
    assert len(other_wordings(question)) == 6


@pytest.mark.parametrize("person", PEOPLE)
def test_every_template_is_known_as_one_of_its_own_group_whoever_it_is_about(person):
    for group, template in TEMPLATES:
        question = filled(template, person)
        if question and template not in NAMES_OF_ROLES:
            known = _recognized(question)
            assert known is not None, question
            assert known.group is group, (question, known.group["questions"][0])


@pytest.mark.parametrize("person", PEOPLE)
def test_filled_templates_are_plain_sentences_that_agree_with_whom_they_are_about(person):
    wrong = {
        "I": r"\bI (is|are|does|has)\b|\b(is|are|does|has|of|for|to|with|give|gave|call|about) I\b|\bme\b.*\bme\b",
        "we": r"\bwe (is|am|does|has)\b|\b(is|am|does|has|of|for|to|with|give|gave|call|about) we\b",
        "my parents": r"my parents (is|does|has)\b|\b(is|does|(?<!ho )has) my parents\b(?!')|are my parents a\b",
    }.get(person, rf"\b(am|are|do) {person}\b(?!'| and I)|{person} (am|are)\b")
    asked = [filled(template, person) for _, template in TEMPLATES]
    assert sum(map(bool, asked)) > 0.6 * len(asked)
    for question in filter(None, asked):
        assert re.fullmatch(r"\S+( \S+)*[?.]", question), question
        assert not re.search(r"[{}]", question), question
        assert not re.search(wrong, question), question


def test_groups_are_large_have_no_template_twice_and_begin_with_one_that_needs_no_pronoun():
    templates = [template for _, template in TEMPLATES]
    assert len(set(templates)) == len(templates)
    known = {"x", "xs", "xo", "n", "their", *FORMS}
    assert all(set(SLOT.findall(template)) <= known for template in templates)
    for group in _groups():
        assert 12 <= len(group["questions"]) <= 18, group["questions"][0]
        assert not (group["has_one_answer"] and "{their}" in group["questions"][0])


def test_a_pronoun_is_used_only_where_it_is_known():
    assert filled("How {does} {x} take {their} tea?", "my grandmother") == "How does my grandmother take her tea?"
    assert filled("How {does} {x} take {their} tea?", "Anna") == ""
    known = _recognized("How does Anna take her tea?")
    assert known is not None
    assert "What does Anna put in her tea?" in _reworded(known, "")


def test_plural_nouns_are_told_where_no_verb_shows_them():
    assert _slots({"xo": "my house keys"})["is"] == _slots({"x": "my children"})["is"] == FORMS["is"][PLURAL]
    assert _slots({"xo": "my boss"})["is"] == _slots({"x": "my bus"})["is"] == "is"


OTHER_KINDS = """
What is the difference between a virus and a bacterium?
How do I fix a flat tyre?
Which film should I watch tonight?
What is a good name for a puppy?
How much sleep does a toddler need?
Who wrote Middlemarch?
When was the Colosseum built?
Why is my screen flickering?
Can you help me write a letter to my landlord?
What should I wear to a wedding?
What does my dream about falling mean?
How do I ask my boss for a raise?
What do I do?
What do I need for a camping trip?
Which laptop should I buy?
How do I train my dog not to bark?
Why does my cat scratch the sofa?
How do I change my password?
What should I name my company?
How do I tell my parents that I failed?
What is your name?
How are you today?
Tell me about my rights as a tenant.
Remind me to call the plumber.
I forgot my umbrella today.
Can you tell me how photosynthesis works?
What happens if I eat too much salt?
Is my sister older than me?
Should I tell my sister the truth?
What would my sister say if I moved away?
Why did my brother leave early?
What could I plant beside my roses?
When does the next train leave?
How do bees make honey?
What do owls eat?
How do I open a bank account?
How can I get to the airport?
Which gym exercises help my back?
What can my dog learn at his age?
How do I renew a passport?
What do you know about me?
How should I greet my new neighbours?
How do I get my sister to call me back?
Which day is best to ask for a discount?
What is my best option here?
Who is in charge of traffic lights?
When should I take my bread out of the oven?
How often should plants be watered in winter?
""".strip().splitlines()


@pytest.mark.parametrize("question", OTHER_KINDS)
def test_questions_of_other_kinds_are_in_no_group(question):
    assert _recognized(question) is None


def test_each_question_gets_a_sample_of_its_own_that_is_the_same_in_every_process():
    question = "What is my tutor's job?"
    code = f"from lars_agent.english.wordings import other_wordings; print(other_wordings({question!r}))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(other_wordings(question))
    group = Group(topic="", has_one_answer=True, is_compared=False, questions=list("abcdefgh"))
    known = Recognized(group, "a", _slots({"x": "my tutor"}))
    assert "".join(_reworded(known, question)) == "ebfhcgd"
    assert "".join(_reworded(known, "What is my goat called?")) == "defghbc"


def test_facts_of_one_kind_are_together_read_in_all_words_of_the_kind():
    names = [f"my {adjective} goat" for adjective in ("old", "young", "big", "small", "brown", "shy")]
    names += [name.replace("goat", other) for name in names for other in ("cat", "pony")]
    read = [{text.replace(name, "my goat") for text in other_wordings(f"What is {name} called?")} for name in names]
    known = _recognized("What is my goat called?")
    assert known is not None
    kind = set(_reworded(known, "What is my goat called?"))
    assert len(set(map(frozenset, read))) == len(names)
    assert kind <= set().union(*read)


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
        ("What is my sister's job?", "How does my sister make her money"),
        ("Remind me what my sister's job is.", "what's my sister's profession again?"),
        ("Where are my keys?", "Where did I put my keys?"),
        ("Who is my partner?", "Who am I dating?"),
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
        ("What day is my exam?", "At what time is my exam?"),
        ("What is my shoe size?", "What is my ring size?"),
        ("What is my favourite film?", "What is my favourite book?"),
        ("When do I get up?", "When do I go to bed?"),
        ("", "?"),
    ],
)
def test_questions_that_may_both_be_answered_ask_for_something_else(one, other):
    assert asked_for(one) != asked_for(other) or not one


def test_the_wordings_about_anything_are_those_of_the_group_that_knows_the_question():
    found = wordings_about_anything("What is my goat called?")
    assert found == wordings_about_anything("Do you know Anna's name?")
    assert "What is my one called?" in found
    assert len(found) == 8
    assert set(found) < set(wordings_about_anything())
    assert wordings_about_anything("Is it raining?") == []
    assert not any("{" in text for text in wordings_about_anything())


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("What is my shoe size?", "size"),
        ("Which wifi network do we use?", "name"),
        ("Who is my dentist?", "name"),
        ("What shade is my door?", "colour"),
        ("Which floor do I live on?", "place"),
        ("What is my locker number?", ""),
        ("Is it raining?", ""),
    ],
)
def test_the_topic_is_told_where_it_is_certain(question, topic):
    assert topic_of(question) == topic
