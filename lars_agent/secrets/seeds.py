"""Find the seed phrases of wallets: many words of one of BIP-39's lists in a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from lars_agent.secrets.found import SEED, Secret
from lars_agent.secrets.normal import normalized
from lars_agent.secrets.vocabulary import names_in

MIN_WORDS, MIN_NAMED = 12, 6  # in a row, and in a row after the name "seed phrase"
MIN_OPENING = 3  # words of a run that may be the name
NEAR = 80  # characters from the name to the first word
# Each list has 2,048 words; those whose words stand without blanks between them are left out.
LANGUAGES = (
    "english",
    "french",
    "italian",
    "spanish",
    "portuguese",
    "czech",
    "turkish",
    "russian",
    "japanese",
    "korean",
)
_WORD = re.compile(r"[^\W\d_]+")
_BETWEEN = re.compile(r"[\s\d.,;:()\-|/'\"]{1,8}")


@cache
def _lists() -> dict[str, frozenset[str]]:
    """Return the languages whose lists hold a word, by word."""
    languages: dict[str, set[str]] = {}
    for language in LANGUAGES:
        for line in (files("mnemonic") / "wordlist" / f"{language}.txt").read_text(encoding="utf-8").split():
            languages.setdefault(normalized(line)[0].casefold(), set()).add(language)
    return {word: frozenset(names) for word, names in languages.items()}


def seed_phrases(text: str) -> Iterator[Secret]:
    """Yield the runs of a normal `text` that are seed phrases."""
    known_words = [one.casefold() in _lists() for one in _WORD.findall(text)]
    if not any(all(known_words[first : first + MIN_NAMED]) for first in range(len(known_words) - MIN_NAMED + 1)):
        return
    named = [name.after for name in names_in(text) if name.family == "seed"]
    run: list[tuple[int, int]] = []
    common = frozenset[str]()
    for match in _WORD.finditer(text):
        start, end = match.span()
        known = _lists().get(match.group().casefold(), frozenset())
        goes_on = bool(run and common & known and _BETWEEN.fullmatch(text, run[-1][1], start))
        if not goes_on:
            yield from _phrase(run, named)
            run, common = [], known
        if known:
            run.append((start, end))
            common &= known
    yield from _phrase(run, named)


def _phrase(run: list[tuple[int, int]], named: list[int]) -> Iterator[Secret]:
    opening = run[MIN_OPENING][0] if len(run) > MIN_OPENING else 0  # "seed" and "phrase" are listed themselves
    begin = max((after for after in named if run and run[0][0] < after <= opening), default=0)
    words = [word for word in run if word[0] >= begin]
    is_named = bool(words) and any(0 <= words[0][0] - after <= NEAR for after in named)
    if len(words) >= (MIN_NAMED if is_named else MIN_WORDS):
        yield Secret(words[0][0], words[-1][1], SEED)
