"""What a question is about, as far as its words show it; the patterns are English ones.

English puts the head of a noun last (`my piano teacher` is a teacher), but no mark tells where the noun ends and the
verb begins (`does my sister drink tea`). What stands before it often does: see `_heads`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

OWNER = re.compile(r"(?:\b([\w-]+)\s+)?\b(?:my|our|your)\s+((?:\w[\w-]*(?:['’]s)?(?:\s+|\b)){1,4})(\W?)", re.IGNORECASE)
POSSESSIVE = re.compile(r"\b(\w+)['’]s\b(?!\s+(?:the|a|an|my|your)\b)")
NAME = re.compile(r"(?<=[a-z,;] )([A-Z]\w+)")  # not the first word
FIRST_PERSON = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours|ourselves)\b", re.IGNORECASE)
FOR_SPEAKER = re.compile(
    r"\b(?:should|can|could|would|shall|may|might|must|how\s+do)\s+(?:i|we)\b"
    r"|\b(?:i|we)\s+(?:should|can|could|would|shall|may|might|must)\b"
    r"|\b(?:tell|give|show|teach|help|let|recommend|suggest|explain|to|for)\s+(?:me|us)\b",
    re.IGNORECASE,
)
REQUEST = re.compile(r"\bhow\s+do\s+(?:i|we)\b|\b(?:tell|give|show|remind|let|teach|help)\s+(?:me|us)\b", re.IGNORECASE)
DUMMY = re.compile(
    r"\b(?:time|day|date|month|year|season) is it\b|\b(?:is|are|was|were) there\b|\bthere (?:is|are|was|were)\b",
    re.IGNORECASE,
)
PRONOUN = re.compile(r"\b(?:s?he|him|his|hers?|they|them|theirs?|it|its|that|this|those|these|there)\b", re.IGNORECASE)
ANYTHING = "my one"
CONTRACTED = frozenset({"what", "who", "where", "when", "how", "it", "that", "there", "he", "she", "let"})
PARTICIPLE, AGENT = re.compile(r"\w+(?:ed|ing)"), re.compile(r"\w{2,}(?:er|or|ist|ian|man|woman)")
ENGLISH: dict[str, list[str]] = json.loads((files("lars_agent.data") / "english.json").read_text(encoding="utf-8"))
BE, AUXILIARY, ATTRIBUTE = (frozenset(ENGLISH[kind]) for kind in ("be", "auxiliary", "attribute"))
FUNCTION = BE | AUXILIARY | frozenset(ENGLISH["preposition"] + ENGLISH["function"])
BEHIND_NOUN = FUNCTION | frozenset(ENGLISH["behind_noun"])
NAMING = frozenset({"called", "named"})
# Said of a noun: `what my wife likes`, `what makes my wife ill`.
SAID = frozenset((*(f"{verb}s" for verb in ENGLISH["verb"]), *ENGLISH["said_of"], *ENGLISH["mood"]))
TIMES = frozenset(ENGLISH["time"])  # capital letters of which name nobody
PLAIN = dict(pair.split("=") for pair in ENGLISH["other_words"])
OTHER_WORD = re.compile(rf"\b(?:{'|'.join(PLAIN)})\b", re.IGNORECASE)
# In front of a noun: a certain one, and any of its kind.
CERTAIN, ANY = r"\b(?:the|this|that|our)\s+", r"\b(?:an?|any|each|every|some|most|all|no)\s+(?:[\w-]+\s+)?"


class Subject(NamedTuple):
    """Whose or whom a text is about, in lower case.

    Attributes:
        heads: the things or persons of the speaker: `dog` of `my old dog` and of `my dog's name`.
        perhaps: words that may be such a head, or what is said about it: `drink` of `does my sister drink tea`.
        owners: who has something: `sister` of `my sister's dog`.
        names: words with a capital inside a sentence.
    """

    heads: frozenset[str]
    perhaps: frozenset[str]
    owners: frozenset[str]
    names: frozenset[str]

    @property
    def is_shown(self) -> bool:
        """Whether any word shows it."""
        return bool(self.heads or self.owners or self.names)

    def shares(self, other: Subject) -> bool:
        """Return whether a thing or person of the speaker is the same in both: `my old dog` is `your dog`."""
        return bool(self.heads & (other.heads | other.perhaps) or self.perhaps & other.heads)


def subject_of(text: str) -> Subject:
    """Return the subject of `text`; all sets are empty where nothing shows it."""
    heads, perhaps = set[str](), set[str]()
    for before, words, mark in OWNER.findall(text):
        sure, unsure = _heads(before.casefold(), words.casefold().split(), mark)
        heads |= sure
        perhaps |= unsure
    owners = {word.casefold() for word in POSSESSIVE.findall(text)} - CONTRACTED - TIMES
    names = {word.casefold() for word in NAME.findall(text)} - CONTRACTED - TIMES
    return Subject(frozenset(heads), frozenset(perhaps - heads), frozenset(owners), frozenset(names))


def is_about_speaker(text: str) -> bool:
    """Return whether it is about who speaks (`where do I live`), not just for them (`how do I whistle`, `tell me`)."""
    return bool(FIRST_PERSON.search(FOR_SPEAKER.sub("", text)))


def is_for_speaker(text: str) -> bool:
    """Return whether it is about who speaks, or for them (`can I eat nuts`), and more than a request (`tell me`)."""
    return bool(FIRST_PERSON.search(REQUEST.sub("", text)))


def owners_of(text: str, noun: str) -> set[str]:
    """Return who has the `noun`, in lower case: `sister` of `my sister's old dog`."""
    owned = rf"\b(\w+)['’]s\s+(?:[\w-]+\s+){{0,2}}{re.escape(noun)}\b"
    return {owner.casefold() for owner in re.findall(owned, text, re.IGNORECASE)} - CONTRACTED - TIMES


def refers_back(text: str) -> bool:
    """Return whether it may be about what was said before."""
    return bool(PRONOUN.search(DUMMY.sub("", text)))


def in_plain_words(text: str) -> str:
    """Return `text` with the plainest of the words for one thing: `my mom` is `my mother`."""
    return OTHER_WORD.sub(lambda word: PLAIN[word[0].lower()], text)


def other_words(word: str) -> Sequence[str]:
    """Return `word`, in lower case, and the other words for the same thing."""
    return (word, *(other for other, plain in PLAIN.items() if plain == PLAIN.get(word, word) and other != word))


def names_certain(text: str, noun: str) -> bool:
    """Return whether it has `noun` for a certain one of its kind (`the dog`)."""
    return re.search(rf"{CERTAIN}{re.escape(noun)}\b", text, re.IGNORECASE) is not None


def names_any(text: str, noun: str) -> bool:
    """Return whether it has `noun` for any of its kind (`a dog`, `every old dog`)."""
    return re.search(rf"{ANY}{re.escape(noun)}\b", text, re.IGNORECASE) is not None


def about_anything(text: str) -> str:
    """Return `text` with `ANYTHING` in place of whom or what of the speaker it is about: what is left is what is asked.

    Unchanged where that is not sure.
    """
    for head in sorted(subject_of(text).heads - ATTRIBUTE):
        noun = re.compile(rf"\b(?:my|our)\s+(?:[\w-]+\s+){{0,2}}?{re.escape(head)}\b", re.IGNORECASE)
        if noun.search(text):
            return noun.sub(ANYTHING, text)
    return text


def _heads(before: str, words: list[str], mark: str) -> tuple[set[str], set[str]]:
    """Return the words that head what follows `my`, and those that may; `before` is the word in front of it.

    After a preposition or a verb (`of my piano teacher`), or before a form of `to be` (`my piano teacher is`), all the
    words are one noun. After `is` the last one may be what is said of it (`is my piano teacher allergic`), after `does`
    those from the second on are a verb and its object, but for an agent with a verb behind it.
    """
    owners = [index for index, word in enumerate(words) if word.endswith(("'s", "’s"))]
    owner, words = (words[owners[-1]][:-2], words[owners[-1] + 1 :]) if owners else ("", words)
    behind = next((at for at, word in enumerate(words) if word in (BEHIND_NOUN if at else FUNCTION)), len(words))
    noun = words[:behind][:3]
    if owner and (not noun or ATTRIBUTE.intersection(noun)):
        return {owner}, set()
    follower = words[len(noun)] if len(noun) < len(words) else ""
    if naming := [at for at, word in enumerate(noun) if at and word in NAMING]:  # is my dog called Rex
        noun, follower = noun[: naming[0]], "is"
    while len(noun) > 1 and (PARTICIPLE.fullmatch(noun[-1]) or noun[-1] in ENGLISH["participle"]):
        noun.pop()
        follower = "is"
    if before not in BE | AUXILIARY:
        said = next((at for at, word in enumerate(noun) if at and word in SAID), len(noun))
        noun = noun[:said]
    elif before in AUXILIARY:
        while len(noun) > 1 and noun[0] in ENGLISH["noun_modifier"]:
            noun = noun[1:]
    if len(noun) < 2:
        return set(noun), set()
    if before in AUXILIARY:
        is_followed = len(noun) > 2 or follower or not mark.strip()
        return ({noun[1]}, set()) if _is_agent(noun[1]) and is_followed else ({noun[0]}, {noun[1]})
    if before in BE and follower != "is" and not (_is_agent(noun[-1]) and follower in ENGLISH["preposition"]):
        return ({noun[-1]}, {noun[-2]}) if noun[-2] in ENGLISH["noun_modifier"] else ({noun[-2]}, {noun[-1]})
    if before or follower in BE | AUXILIARY:
        return {noun[-1]}, set()
    return {noun[0]}, set(noun[1:])


def _is_agent(word: str) -> bool:
    return AGENT.fullmatch(word) is not None and word not in ENGLISH["agent_like"]
