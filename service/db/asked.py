"""Whether a past question and its answer are about what a new question is about, by their words; English ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from importlib.resources import files
from typing import Literal

from lars_agent.english.answers import answers_of
from lars_agent.english.subjects import (
    ATTRIBUTE,
    AUXILIARY,
    BE,
    ENGLISH,
    FUNCTION,
    in_plain_words,
    is_about_speaker,
    is_for_speaker,
    names_any,
    names_certain,
    owners_of,
    refers_back,
    subject_of,
)
from lars_agent.english.wordings import topic_of
from lars_agent.runtime.request import Fit

LEAST_SHARE = 0.5  # of a question's own words that a correction has to hold where nothing shows what it is about
UNIQUE = frozenset(ENGLISH["unique"])
LONGEST_TELEGRAM = 7  # words
WORDS = re.compile(r"(?<!['’])\w+|(?<=['’])(?!s\b)\w+")  # no possessive s
# `the candles`, but neither `the capital of` nor `the largest ocean`: those are the same for everybody.
CERTAIN = re.compile(
    r"\b(?:the|this|that|these|those)\s+(?!\w+est\b|most\b|first\b|last\b|\w+\s+of\b)(?:([\w-]+)\s+)?([\w-]+)\b(?!\s+of\b)",
    re.IGNORECASE,
)
# Words that most questions share, and that tell none from another; and those with which English requests begin.
COMMON = frozenset((files("service.db") / "common_words.txt").read_text(encoding="utf-8").split())
KINDS = json.loads((files("lars_agent.data") / "kinds.json").read_text(encoding="utf-8"))


def words_of(text: str) -> Mapping[str, None]:
    """Return the words of a text in lower case, in their order."""
    return dict.fromkeys(word.casefold() for word in WORDS.findall(text))


OPENINGS = frozenset(next(iter(words_of(text))) for texts in KINDS.values() for text in texts)


class Asked:
    """A question, or what a person taught an answer to.

    Attributes:
        topic: what it certainly asks for; nothing where that is not known.
        about: whom or what it is about.
        about_speaker: True if it is about who asks, but for what they have.
        answers: the kinds of answer that it asks for.
    """

    def __init__(self, question: str, topic: str | None = None) -> None:
        self.text = in_plain_words(question)
        self.words = words_of(self.text)
        self.topic = topic_of(self.text) if topic is None else topic  # most of the work
        self.about, self.about_speaker = subject_of(self.text), is_about_speaker(self.text)
        self.answers = answers_of(self.text)

    @property
    def about_somebody(self) -> bool:
        """Whether it is about who asks, or about a thing or person of theirs."""
        return bool(self.about.heads) or self.about_speaker

    @property
    def about_certain(self) -> bool:
        """Whether it is about a certain thing that need not be the speaker's (`the candles`)."""
        return bool(self._certain)

    @property
    def about_anybody(self) -> bool:
        """Whether it is about no certain person or thing, but for what is the same for everybody."""
        return not (self.about_somebody or self.about.names or self.about_certain)

    def fit(self, known: Asked, answer: str) -> Fit | Literal["no"]:
        """Return how `answer` to `known` is to this question.

        "same" answers it, as far as both ask for an answer of the same kind; "like" answers one about the same, or in
        half of the same words; "perhaps" may answer it in other words, which these do not show; "no" is about somebody
        or something else. What is of the speaker in one of them has to be in the other too: where penguins live is not
        where my uncle lives.
        """
        fit = self._fit_of_words(known, answer)
        wants_other = bool(self.answers and known.answers) and self.answers.isdisjoint(known.answers)
        return "like" if fit == "same" and wants_other else fit

    def _fit_of_words(self, known: Asked, answer: str) -> Fit | Literal["no"]:
        """Return `fit`, whatever kind of answer is asked for."""
        told = in_plain_words(f"{known.text}\n{answer}")
        words = words_of(told).keys()
        if (self.topic and known.topic not in ("", self.topic)) or not self._owners <= words:
            return "no"
        own = self.words.keys() - COMMON
        how: Fit = "same" if own <= words or (self.topic and self.topic == known.topic) else "like"
        strangers = self.about.names - words
        if self.about.heads:
            return self._fit_of_own(known, told, how, is_strange=bool(strangers))
        is_back = refers_back(self.text)
        asks_mine = self.about_speaker or is_back
        if known.about.names & self.words.keys():
            return "like"
        if strangers and (known.about.names or not self.about_speaker):
            return "no"
        if known.about_somebody and self.about.names and not asks_mine:
            return "like"  # who is Rex
        if not known.about.owners <= self.words.keys():
            return "no"
        named = known.about.heads & self.words.keys()
        if known.about_somebody and not asks_mine:
            if any(names_certain(self.text, head) for head in named):  # the dog
                return how
            if named and own <= words and not any(names_any(self.text, head) for head in named):
                return "same"
        elif (named and self.about_speaker) or (own and len(own & words) >= LEAST_SHARE * len(own)):
            return how
        if known.about_anybody:
            return "no"
        is_short = self._is_telegram or is_back
        return "perhaps" if is_for_speaker(self.text) or self._shows(words) or (is_short and own & words) else "no"

    def _fit_of_own(self, known: Asked, told: str, how: Fit, *, is_strange: bool) -> Fit | Literal["no"]:
        """Return `fit` where this is about something of the speaker's; with `is_strange` it names somebody besides."""
        if not known.about.owners <= self.words.keys():
            return "no"
        if self.about.shares(subject_of(told)):
            return "no" if is_strange and known.about.names - self.words.keys() else "same"
        if known.about.heads:
            if not self.about.heads <= known.about.owners:
                return "no"
            return "perhaps" if known.about.heads.isdisjoint(self.words) else how  # the teacher of my son
        if not self.about.heads.isdisjoint(known.words):
            return how
        return "no" if is_strange or known.about_anybody else "perhaps"

    @property
    def _owners(self) -> Set[str]:
        """Who has what this is about; all owners where that is nothing of the speaker's."""
        heads = self.about.heads
        return {one for head in heads for one in owners_of(self.text, head)} if heads else self.about.owners

    @property
    def _certain(self) -> set[str]:
        """The nouns of certain things (`the candles`)."""
        nouns = {noun.casefold() for found in CERTAIN.findall(self.text) for noun in found if noun}
        return nouns - ATTRIBUTE - UNIQUE - FUNCTION

    def _shows(self, words: Iterable[str]) -> bool:
        """Return whether one of the words is that of a certain thing, or its plural."""
        nouns = {noun.removesuffix("s") for noun in self._certain}
        return not nouns.isdisjoint(word.removesuffix("s") for word in words)

    @property
    def _is_telegram(self) -> bool:
        """Whether it is a few words (`passport valid until?`) and no sentence."""
        first = next(iter(self.words), "")
        is_sentence = first in COMMON | OPENINGS or not (BE | AUXILIARY).isdisjoint(self.words)
        return len(self.words) <= LONGEST_TELEGRAM and not is_sentence
