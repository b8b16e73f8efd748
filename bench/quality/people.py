"""Invented people from a seed: facts with several wordings of their question, and questions about somebody else.

None of the wordings that are asked is one that training reads (`lars_agent/data/wordings.json`); a test holds that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

ONSETS, VOWELS, ENDS = ("b", "d", "dr", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"), "aeiou", "lnrsx"
DRINKS = ("elderflower cordial", "barley tea", "tamarind juice", "ginger ale", "oat milk", "rooibos", "birch water")
FOODS = ("celery", "sesame", "mustard", "lupin", "buckwheat", "kiwi", "mango", "squid", "pine nuts", "aniseed")
JOBS = ("beekeeper", "glazier", "cooper", "actuary", "cartographer", "farrier", "upholsterer", "sommelier", "luthier")
COLOURS = ("turquoise", "maroon", "beige", "lilac", "ochre", "crimson", "olive", "ivory", "copper", "indigo")
MONTHS = ("January", "March", "April", "June", "July", "August", "October", "December")
BIRTHDAYS = tuple(f"{day} {month}" for day, month in product(range(2, 29, 3), MONTHS))
PEOPLE = (
    *("sister", "brother", "mother", "father", "aunt", "uncle", "cousin", "grandmother", "grandfather", "nephew"),
    *("niece", "dentist", "doctor", "landlord", "cleaner", "gardener", "accountant", "tailor", "trainer", "mechanic"),
)
THINGS = ("dog", "cat", "car", "bicycle", "boat", "horse", "parrot", "tent", "piano", "motorbike", "rabbit", "van")
OTHERS = {PEOPLE: ("goddaughter", "lodger", "piano teacher"), THINGS: ("scooter", "hamster", "canoe")}  # never taught
POSSESSORS = ("Anna's", "my colleague's", "Mr Haddad's")

# Wordings of a question, the first of which is corrected; the correction; what the value is drawn from (a name where it
# is nothing); what the person may say in passing, instead of correcting.
Attribute = tuple[str, str, Sequence[str], Sequence[str]]
OF_PEOPLE: Sequence[Attribute] = (
    (
        "What is {} called? By which name do people know {}? Do you know what {} is named? Which name does {} go by?",
        "Your {} is called {}.",
        (),
        (
            "By the way, my {} is called {}.",
            "My {}'s name is {}, did I mention it?",
            "I have a {} named {}.",
            "I had coffee with my {} {} this morning.",
        ),
    ),
    (
        "Where does {} live? Which town is the home of {}? What place does {} live in? Where is {} at home?",
        "Your {} lives in {}.",
        (),
        (
            "My {} lives in {}, you know.",
            "My {} moved to {} years ago and is happy there.",
            "It is a long way to my {}, who lives in {}.",
            "Oh, and my {} has a flat in {}.",
        ),
    ),
    (
        "What is the job of {}? How does {} earn a living? Which profession does {} have? "
        "Can you tell me {}'s occupation?",
        "Your {} is a {}.",
        JOBS,
        (
            "My {} works as a {} these days.",
            "So my {} is a {}, and I admire that.",
            "My {} earns a living as a {}.",
            "Being a {1} is hard, says my {0}.",
        ),
    ),
    (
        "What is the favourite drink of {}? What does {} like to drink best? Which drink should I offer {}? "
        "What would {} want to drink?",
        "Your {} likes {} best.",
        DRINKS,
        (
            "My {} likes {} best of all drinks.",
            "My {}'s favourite drink is {}.",
            "My {} always drinks {}.",
            "Whenever my {} visits I buy {}.",
        ),
    ),
    (
        "What is {} allergic to? Which food must {} avoid? Which food gives {} an allergic reaction? "
        "What should I leave out of a meal for {} because of an allergy?",
        "Your {} is allergic to {}.",
        FOODS,
        (
            "Also, my {} is allergic to {}.",
            "My {} can't eat {}, sadly.",
            "My {} has an allergy to {}.",
            "We have to cook without {1} when my {0} comes.",
        ),
    ),
    (
        "When is the birthday of {}? On which day was {} born? What day and month is the birthday of {}? "
        "On which date should I wish {} a happy birthday?",
        "Your {} has a birthday on {}.",
        BIRTHDAYS,
        (
            "My {} has a birthday on {}.",
            "My {}'s birthday is on {}.",
            "My {} was born on {}.",
            "We celebrate my {} every year on {}.",
        ),
    ),
)
OF_THINGS: Sequence[Attribute] = (
    (
        "What is the name of {}? What name did I give {}? Which name did I choose for {}? Which name did {} get?",
        "Your {} is called {}.",
        (),
        (
            "My {} is called {}, by the way.",
            "I own a {} called {}.",
            "I named my {} {}.",
            "Everybody calls my {} {}.",
        ),
    ),
    (
        "What colour is {}? How would you describe {} in terms of colour? In what colour does {} come? "
        "Which colour of paint would I need for a picture of {}?",
        "Your {} is {}.",
        COLOURS,
        (
            "My {} is {}.",
            "The colour of my {} is {}.",
            "I chose my {} because it is {}.",
            "My {} is the {} one.",
        ),
    ),
    (
        "Where did I get {}? Which town did {} come from? In what place was {} bought? Where was it that I found {}?",
        "You got your {} in {}.",
        (),
        (
            "I got my {} in {}.",
            "I bought my {} in {} last year.",
            "My {} comes from {}.",
            "We went all the way to {1} for my {0}.",
        ),
    ),
)


@dataclass(frozen=True)
class Fact:
    """A fact about a person.

    Attributes:
        wordings: of its question; the person corrects the reply to the first one alone.
        correction: what they say the reply should have been.
        value: what a right reply holds.
        neighbours: the same question about somebody or something else, to which the value is no answer.
        untold: a question for something else about the same person or thing, which they never told; or nothing.
        said: ways of stating it in passing.
    """

    wordings: tuple[str, ...]
    correction: str
    value: str
    neighbours: tuple[str, ...]
    said: tuple[str, ...]
    untold: str = ""


def facts(count: int, seed: int) -> list[Fact]:
    """Facts of one person, each with a value of its own; the same for the same seed. Raises ValueError above 150."""
    rng, used = random.Random(f"people {seed}"), set[str]()
    kinds = ((PEOPLE, OF_PEOPLE), (THINGS, OF_THINGS))
    every = [(nouns, noun, attribute) for nouns, known in kinds for noun, attribute in product(nouns, known)]
    drawn = rng.sample(every, count)
    told = {(noun, attribute) for _, noun, attribute in drawn}
    never = {noun: [one for _, its, one in every if its == noun and (noun, one) not in told] for _, noun, _ in every}
    return [replace(_fact(*one, rng, used), untold=_untold(one[1], never[one[1]])) for one in drawn]


def _untold(noun: str, attributes: Sequence[Attribute]) -> str:
    """A question for the first of the attributes; nothing where there is none."""
    return "".join(f"{text.split('?')[0].format(f'my {noun}')}?" for text, *_ in attributes[:1])


def _fact(nouns: tuple[str, ...], noun: str, attribute: Attribute, rng: random.Random, used: set[str]) -> Fact:
    text, correction, values, said = attribute
    wordings = [f"{question}?" for question in text.removesuffix("?").split("? ")]
    unused = [value for value in values if value not in used]
    value = rng.choice(unused or values) if values else invented_name(rng, used)
    used.add(value)
    others = (f"{rng.choice(POSSESSORS)} {noun}", f"my {rng.choice(OTHERS[nouns])}")
    neighbours = tuple(rng.choice(wordings).format(other) for other in others)
    asked = tuple(wording.format(f"my {noun}") for wording in wordings)
    stated = tuple(one.format(noun, value) for one in said)
    return Fact(asked, correction.format(noun, value), value, neighbours, stated)


def invented_name(rng: random.Random, used: set[str]) -> str:
    """A new name of two or three syllables that nobody has."""
    while True:
        syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3))]
        name = ("".join(syllables) + rng.choice(ENDS)).capitalize()
        if name not in used:
            return name
