"""What a question is about, as far as its words show it; the patterns are English ones."""

from __future__ import annotations

import re
from typing import NamedTuple

OWNER = re.compile(r"\b(?:my|our|your)\s+(\w[\w-]*)(?:\s+(\w[\w-]*))?", re.IGNORECASE)
POSSESSIVE = re.compile(r"\b(\w+)['’]s\b(?!\s+(?:the|a|an|my|your)\b)")
NAME = re.compile(r"(?<=[a-z,;] )([A-Z]\w+)")  # not the first word
CONTRACTED = frozenset({"what", "who", "where", "when", "how", "it", "that", "there", "he", "she", "let"})


class Subject(NamedTuple):
    """Whose or whom a text is about, in lower case: the two words after each `my` or `your`, and owners and names."""

    owned: frozenset[tuple[str, str]]
    named: frozenset[str]

    def shares(self, other: Subject) -> bool:
        """Return whether something owned is the same in both: `my old dog` is `your dog`, but no `old cat`."""
        return any(
            first in (one, two) or (second and second == one)
            for first, second in self.owned
            for one, two in other.owned
        )


def subject_of(text: str) -> Subject:
    """Return the subject of `text`; both sets are empty where nothing shows it."""
    owned = {(first.casefold(), second.casefold()) for first, second in OWNER.findall(text)}
    named = {word.casefold() for word in (*POSSESSIVE.findall(text), *NAME.findall(text))}
    return Subject(frozenset(owned), frozenset(named - CONTRACTED))
