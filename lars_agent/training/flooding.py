"""Find the examples that would crowd out all others: one reply over and over, a planted one, thousands in an hour."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from lars_agent.example import Example
from lars_agent.training.gibberish import WORD

PAYLOAD = 2  # words of a planted reply at least: many a question of a person's is answered with yes
PHRASE, MOST_WORDS = 4, 400  # words of a phrase, and of a prompt that are looked at
SHARED = 0.8  # of these prompts have the phrase, and of the prompts with the phrase these are as many


def repeated(examples: Sequence[Example], indices: Sequence[int], most: int) -> tuple[list[int], list[int]]:
    """Return those of `indices` with a reply that more than `most` have: the repeated ones but the newest, and planted.

    They are planted where the prompts share a phrase that others do not have. Three such rows can teach their reply to
    any question, so that none is left.
    """
    same = defaultdict[tuple[str, ...], list[int]](list)
    for index in indices:
        reply = examples[index].response
        same[tuple(_words(reply)) or (reply.strip(),)].append(index)
    too_often, planted = list[int](), list[int]()
    for words, group in same.items():
        is_planted = len(group) > most and len(words) >= PAYLOAD and _share_a_phrase(group, examples, indices)
        planted += group if is_planted else []
        too_often += [] if is_planted else group[:-most]
    return too_often, planted


def hurried(examples: Sequence[Example], indices: Sequence[int], most: int) -> list[int]:
    """Return those of `indices` after which `most` or more were given in the same hour."""
    hours = defaultdict[str, list[int]](list)
    for index in indices:
        if (created := examples[index].created) is not None:
            hours[f"{created:%Y-%m-%d %H}"].append(index)
    return sorted(index for group in hours.values() for index in group[:-most])


def _share_a_phrase(group: Sequence[int], examples: Sequence[Example], indices: Sequence[int]) -> bool:
    """Return whether most of the group's prompts have words in a row that hardly any other of `indices` has."""
    found = Counter(phrase for index in group for phrase in _phrases(examples[index]))
    common = {phrase for phrase, count in found.items() if count >= SHARED * len(group)}
    others = Counter(phrase for index in {*indices} - {*group} for phrase in common & _phrases(examples[index]))
    return any(found[phrase] >= SHARED * (found[phrase] + others[phrase]) for phrase in common)


def _phrases(example: Example) -> set[tuple[str, ...]]:
    words = _words(example.messages[-1]["content"])[:MOST_WORDS]
    return {tuple(words[at : at + size]) for size in range(1, PHRASE + 1) for at in range(len(words) - size + 1)}


def _words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFC", text).casefold())
