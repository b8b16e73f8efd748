"""Whether a past question and its answer are about what a new question is about, by their words; English ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

from lars_agent.english.subjects import (
    in_plain_words,
    is_about_speaker,
    names_any,
    names_certain,
    refers_back,
    subject_of,
)
from lars_agent.english.wordings import topic_of

Fit = Literal["same", "like", "no"]
LEAST_SHARE = 0.5  # of a question's own words that a correction has to hold where nothing shows what it is about
WORDS = re.compile(r"(?<!['’])\w+|(?<=['’])(?!s\b)\w+")  # no possessive s
# Words that most questions share, and that tell none from another.
COMMON = frozenset((files("service.db") / "common_words.txt").read_text(encoding="utf-8").split())


class Asked:
    """A question, or what a person taught an answer to.

    Attributes:
        topic: what it certainly asks for; nothing where that is not known.
        about: whom or what it is about.
        about_speaker: True if it is about who asks, but for what they have.
    """

    def __init__(self, question: str, topic: str | None = None) -> None:
        self.text = in_plain_words(question)
        self.words = words_of(self.text)
        self.topic = topic_of(self.text) if topic is None else topic  # most of the work
        self.about, self.about_speaker = subject_of(self.text), is_about_speaker(self.text)

    @property
    def about_somebody(self) -> bool:
        """Return whether it is about who asks, or about a thing or person of theirs."""
        return bool(self.about.heads) or self.about_speaker

    def fit(self, known: Asked, answer: str) -> Fit:
        """Return whether `answer` to `known` answers this, or is only about what is like it in its words.

        What is of the speaker in one of them has to be in the other too, in whatever words; where penguins live is not
        where my uncle lives. Where neither is about somebody, or this only refers back to it, half of the words count.
        """
        told = in_plain_words(f"{known.text}\n{answer}")
        words = words_of(told).keys()
        if self.topic and known.topic not in ("", self.topic):
            return "no"
        if not self.about.names | self.about.owners <= words:
            return "no"
        about_nobody = known.about_somebody and not (self.about_somebody or refers_back(self.text))
        if about_nobody and self.about.names:  # who is Rex
            return "like"
        if not known.about.owners <= self.words.keys():
            return "no"
        own = self.words.keys() - COMMON
        how: Fit = "same" if own <= words or (self.topic and self.topic == known.topic) else "like"
        if self.about.heads:
            return "same" if self.about.shares(subject_of(told)) else how if self._names(known) else "no"
        named = known.about.heads & self.words.keys()
        if about_nobody:
            if any(names_certain(self.text, head) for head in named):  # the dog
                return how
            is_telegram = own <= words and not any(names_any(self.text, head) for head in named)
            return "same" if named and is_telegram else "no"
        if named and self.about_speaker:  # which book do I like best
            return how
        return how if own and len(own & words) >= LEAST_SHARE * len(own) else "no"

    def _names(self, known: Asked) -> bool:
        """Return whether what this is about is in a question about the speaker, or is whose it is."""
        if known.about.heads:
            return self.about.heads <= known.about.owners and not known.about.heads.isdisjoint(self.words)
        return known.about_speaker and not self.about.heads.isdisjoint(known.words)


def words_of(text: str) -> Mapping[str, None]:
    """Return the words of a text in lower case, in their order."""
    return dict.fromkeys(word.casefold() for word in WORDS.findall(text))
