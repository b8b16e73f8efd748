"""The words of many languages that secrets are spoken of with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import re2

from lars_agent.secrets.normal import normalized

Family = Literal["password", "plain", "pin", "key", "identity", "seed"]
FAMILIES: tuple[Family, ...] = ("plain", "key", "pin", "identity", "seed", "password")  # the last one wins
SHORT = 4  # letters of a word that others may hold by chance, so that it has to stand alone
_WORDS: dict[str, Any] = json.loads((files("lars_agent.data") / "secret_words.json").read_text(encoding="utf-8"))
_BLANKS = re.compile(r"[ _.'-]+")


def _all(name: str) -> list[str]:
    return [normalized(word)[0].casefold() for words in _WORDS[name].values() for word in words]


def _bare(word: str) -> str:
    return _BLANKS.sub("", word.casefold())


IS = frozenset(_all("is"))
VAGUE_IS = frozenset({"to", "a", "as", "on", "-", "auf", "je", "az", "ez", "al", "la", "there", "als"})
FILLERS = frozenset(_WORDS["filler"])
FOLLOWERS = frozenset(_WORDS["follow"])
JOINED = "|".join(map(re.escape, _WORDS["joined"]))
ORDINARY = frozenset(word.casefold() for text in _WORDS["ordinary"].values() for word in text.split())
_UPPER = frozenset(word.casefold() for word in _WORDS["upper"])
_FAMILY: dict[str, Family] = {_bare(word): name for name in FAMILIES for word in _all(name)}
_NAMES = sorted({word for name in FAMILIES for word in _all(name)}, key=lambda word: -len(word))
_PATTERN = re2.compile(
    "(?i)(?:" + "|".join("[ _.'-]{0,2}".join(map(re2.escape, _BLANKS.split(word))) for word in _NAMES) + ")"
)


@dataclass(frozen=True)
class Name:
    """A word for a secret, with where it stands; `after` is where its inflection ends."""

    start: int
    end: int
    after: int
    family: Family
    is_upper: bool
    bare: str


def names_in(text: str) -> Iterator[Name]:
    """Yield the words for secrets in a normal `text`."""
    for match in _PATTERN.finditer(text):
        start, end = match.span()
        said = text[start:end]
        bare = _bare(said)
        family = _FAMILY.get(bare)
        if family is None or not _stands_alone(text, start, end, bare, family):
            continue
        after = end
        while after < min(end + 6, len(text)) and text[after].isalpha() and not _is_script(said[-1] + text[after]):
            after += 1
        yield Name(start, end, after, family, said.isupper(), bare)


def _stands_alone(text: str, start: int, end: int, bare: str, family: Family) -> bool:
    """Return False where the letters are a part of another word."""
    said, before, after = text[start:end], text[start - 1 : start], text[end : end + 1]
    if bare in _UPPER and not said.isupper():
        return False
    if _is_script(said):
        return True
    is_camel = before.islower() and said[0].isupper() and said[1:2].islower()
    if len(bare) <= SHORT or family in ("identity", "seed"):
        ends = not after.isalpha() or (said[-1].islower() and after.isupper())
        return ends and (not before.isalnum() or is_camel)
    return not (family == "key" and before.isalpha() and bare in ("token", "secret", "bearer") and not is_camel)


def _is_script(text: str) -> bool:
    """Return True for a writing without capitals in it, whose words stand without blanks or with endings attached."""
    return any(one.lower() == one.upper() for one in text if one.isalpha())
