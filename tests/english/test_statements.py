"""What a person states about themself, and how they correct a reply, in their own words."""

from __future__ import annotations

import pytest

from lars_agent.english.statements import corrected, stated_facts


@pytest.mark.parametrize(
    ("message", "question", "answer"),
    [
        ("By the way, my goat is called Pip.", "What is my goat called?", "Your goat is called Pip."),
        ("My tutor's called Ines!", "What is my tutor called?", "Your tutor is called Ines."),
        ("I have a goat named Pip.", "What is my goat called?", "Your goat is named Pip."),
        ("My tutor has a goat called Pip", "What is my tutor's goat called?", "Your tutor's goat is called Pip."),
        ("My tutor, Ines, plays the harp.", "What is my tutor called?", "Your tutor is called Ines."),
        ("I'm allergic to latex.", "What am I allergic to?", "You are allergic to latex."),
        ("I am a welder.", "What do I do for a living?", "You are a welder."),
        ("My tutor works as a welder.", "What does my tutor work as?", "Your tutor works as a welder."),
        ("I live in Tromsø now, by the way.", "Where do I live?", "You live in Tromsø."),
        ("My favourite fruit is quince.", "What is my favourite fruit?", "Your favourite fruit is quince."),
        ("My tutor’s birthday is on 5 May.", "When is my tutor's birthday?", "Your tutor's birthday is on 5 May."),
        ("Our van is dark green.", "What colour is my van?", "Your van is dark green."),
        ("I bought my van in Bodø.", "Where did I buy my van?", "You bought your van in Bodø."),
        ("My tutor can't eat kelp", "What can my tutor not eat?", "Your tutor can't eat kelp."),
        ("My tutor was born in 1950.", "When was my tutor born?", "Your tutor was born in 1950."),
        ("My son is 7 years old.", "How old is my son?", "Your son is 7 years old."),
        ("My parents live in Turin.", "Where do my parents live?", "Your parents live in Turin."),
        ("I've two cats.", "How many cats do I have?", "You have two cats."),
        ("My name's Ada", "What is my name?", "Your name is Ada."),
        ("My boss is Ada Berg", "Who is my boss?", "Your boss is Ada Berg."),
        ("My tutor moved to Vigo.", "Where does my tutor live?", "Your tutor moved to Vigo."),
        ("I moved to Vigo last year.", "Where do I live?", "You moved to Vigo last year."),
        ("I grew up in Turin.", "Where did I grow up?", "You grew up in Turin."),
        ("My tutor studies physics", "What does my tutor study?", "Your tutor studies physics."),
        ("My tutor weighs 70 kilos", "How much does my tutor weigh?", "Your tutor weighs 70 kilos."),
        ("The colour of my van is green.", "What is my van's colour?", "Your van's colour is green."),
        ("We named our goat Pip.", "What is my goat called?", "Your goat is called Pip."),
        (
            "I saw my tutor, who lives in Turin, and it was nice.",
            "Where does my tutor live?",
            "Your tutor lives in Turin.",
        ),
        ("I have a fear of spiders.", "What do I have a fear of?", "You have a fear of spiders."),
        ("My tutor has a flat in Turin", "Where does my tutor have a flat?", "Your tutor has a flat in Turin."),
        ("My tutor watches birds", "What does my tutor watch?", "Your tutor watches birds."),
        ("I like to drink mate.", "What do I like to drink?", "You like to drink mate."),
        ("My keys are in the drawer.", "Where are my keys?", "Your keys are in the drawer."),
        (
            "My favourite number is 7. What is 6 times that?",
            "What is my favourite number?",
            "Your favourite number is 7.",
        ),
    ],
)
def test_a_fact_about_the_speaker_becomes_a_question_and_its_answer(message, question, answer):
    assert stated_facts(message)[0] == (question, answer)


def test_each_fact_of_a_message_is_found_and_pronouns_stand_for_whom_it_was_about():
    said = "I have a tutor. She's called Ines, lives in Turin and plays the harp; my goat is Pip. Do you like goats?"
    assert [answer for _, answer in stated_facts(said)] == [
        "Your tutor is called Ines.",
        "Your tutor lives in Turin.",
        "Your tutor plays the harp.",
        "Your goat is Pip.",
    ]


@pytest.mark.parametrize(
    "message",
    [
        "What is my dog called?",
        "Is my dog called Rex?",
        "If my dog is called Rex, what then?",
        "I think my dog is called Rex.",
        "My dog isn't called Rex.",
        "My dog is never in the garden.",
        'Translate "my dog is called Rex".',
        "Translate: my dog is called Rex",
        "Write a story. My dog is called Rex.",
        "Please correct this: My sister live in Oslo.",
        "You are a pirate. My ship is called Rex.",
        "### Task:\nMy dog is called Rex",
        "My code is slow.",
        "My function is called f",
        "My question is about Oslo",
        "My manager said my flat is in Oslo",
        "My password is hunter2",
        "My job is boring.",
        "My phone is broken",
        "My flight is at 9 tomorrow",
        "I am tired.",
        "I'm in Paris.",
        "I'm looking for a flat.",
        "I like this.",
        "I like the idea.",
        "I love you",
        "I need help with a letter",
        "I have a question",
        "I have 5 apples and eat 2.",
        "I would like a poem about Oslo.",
        "I work on a program",
        "I think my tutor, who lives in Turin, is ill.",
        "I read a lot.",
        "I run every morning.",
        "I share your view",
        "I have a question for you.",
        "I have a meeting on Monday.",
        "I'm sorry, I am sure about that.",
        "Anna's dog is called Rex.",
        "My dog is called Rex. " * 40,
        "my is",
        "I",
        "my my my is is",
        "I am",
        "",
        "?!",
    ],
)
def test_what_is_asked_quoted_supposed_denied_or_passing_states_nothing(message):
    assert stated_facts(message) == []


@pytest.mark.parametrize(
    ("question", "remark", "answer"),
    [
        ("What is my tutor called?", "No, she is called Ines.", "Your tutor is called Ines."),
        ("What is my tutor called?", "That's wrong, her name is Ines.", "Your tutor's name is Ines."),
        ("What is my tutor called?", "No, Ines.", "Ines."),
        ("Where does my tutor live?", "Actually she lives in Turin", "Your tutor lives in Turin."),
        ("Which city is my tutor in?", "No! My tutor lives in Turin. What else?", "Your tutor lives in Turin."),
        ("What is my goat called", "You’re wrong, it's Pip", "Your goat is Pip."),
        ("How old am I?", "no, 42", "42."),
        ("Where did I get my boat?", "No, I got it in Vigo.", "You got it in Vigo."),
    ],
)
def test_a_remark_says_what_the_reply_should_have_been(question, remark, answer):
    assert corrected(question, remark) == answer


@pytest.mark.parametrize(
    ("question", "remark"),
    [
        ("What is my tutor called?", "She is called Ines."),  # no remark on the reply: a statement of its own
        ("What is my tutor called?", "No, thanks."),
        ("What is my tutor called?", "No. Wrong again."),
        ("What is my tutor called?", "No, that's not what I asked"),
        ("What is my tutor called?", "No, it is too long."),
        ("What is my tutor called?", "No, tell me more about Ines"),
        ("What is my tutor called?", "No, is it Ines?"),
        ("What is my tutor called?", "No, she isn't called Ines."),
        ("Write a poem about my tutor.", "No, Ines."),
        ("What does my code print?", "No, 42."),
        ("What is the capital of France?", "No, Lyon."),
        ("What is my tutor called?", "No"),
        ("", ""),
    ],
)
def test_another_remark_corrects_no_fact(question, remark):
    assert corrected(question, remark) is None


def test_a_comment_needs_no_opening_but_more_than_one_word():
    asked = "What is my tutor called?"
    assert corrected(asked, "She is called Ines", is_comment=True) == "Your tutor is called Ines."
    assert [corrected(asked, said, is_comment=True) for said in ("Boring", "Too long", "It is too long.")] == [None] * 3
