"""Other wordings of a question, to which its answer belongs too, and what all of them ask for.

People correct a fact once, in one wording; an adapter that has read that wording alone answers others less often. What
is often asked about somebody or something has other words (`lars_agent/data/wordings.json`); each question gets a
sample of its own, so that facts of one kind are read in all words of the kind. Fixed frames go around any short
English question. Another text has no other wording.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TypedDict

from lars_agent.english.subjects import ANYTHING, ENGLISH, FUNCTION

LONGEST, MOST = 200, 10  # characters of a question, and its other wordings
ABOUT_ANYTHING = 8  # wordings of a group that is compared: the model reads each of them once, which takes its time
FRAMES = (
    "Tell me: {lower}",
    "{core}?",
    "{question} Do you remember?",
    "I forgot: {lower}",
    "Can you remind me? {question}",
    "Quick question: {lower}",
)
ASKING = re.compile(
    r"(?:what|which|who|whose|where|when|how|why)(?:\s+(?:is|are|was|were|do|does|did|has|have|can|will))?\b\s*", re.I
)
OWN = r"(?:my|our|your|the)(?: [\w'-]+){1,4}?"
NOUN = rf"(?:{OWN}|[A-Z][\w-]+(?:'s(?: [\w-]+){{1,2}}?)?)"  # my sister, Anna, Anna's old dog
PLURAL_NOUN = re.compile(rf"(?:my|our|your|the) .*(?:[^suio']s|\b(?:{'|'.join(ENGLISH['plural'])}))")
NO_NOUN = re.compile(rf"\w{{2,}}[^e]ed|due|worth|doing|going|here|today|tonight|{'|'.join(ENGLISH['participle'])}")
SLOT, WORD = re.compile(r"\{(\w+)\}"), re.compile(r"\w+")
# By the person and number of what is asked about: I, my sister, my parents.
FORMS = {
    "is": ("am", "is", "are"),
    "was": ("was", "was", "were"),
    "does": ("do", "does", "do"),
    "have": ("have", "has", "have"),
    "go": ("go", "goes", "go"),
    "study": ("study", "studies", "study"),
    "finish": ("finish", "finishes", "finish"),
} | {verb: (verb, f"{verb}s", verb) for verb in ENGLISH["asked"]}
SPEAKER, SINGULAR, PLURAL = range(3)
SPEAKERS = {"I": ("I", "my", "me"), "my": ("I", "my", "me"), "we": ("we", "our", "us"), "our": ("we", "our", "us")}
# Questions that are asked in other spellings, and with fixed words around them, are known by the same templates.
SPELLINGS = {
    "favorite": "favourite",
    "color": "colour",
    "license": "licence",
    "wi-fi": "wifi",
    "e-mail": "email",
    "i": "I",
} | {f"{word}{mark}": f"{word} is" for word in ("what", "who", "where", "when", "how") for mark in ("s", "'s")}
SPELLED = re.compile(rf"\b(?:{'|'.join(SPELLINGS)})\b", re.I)
BEFORE = re.compile(r"(?:(?:hey|hi|so|and|please|ok|okay|sorry|quick question)\b[,:]?\s+)+", re.I)
AFTER = re.compile(r"[\s,]+(?:please|again)\W*$", re.I)
OPENING = re.compile(
    r"(?:tell me|remind me|let me know|any idea"
    r"|(?:can|could|would|will) you (?:please )?(?:tell me|remind me|recall|remember|say)"
    r"|do you (?:still |happen to )?(?:know|remember|recall)"
    r"|I (?:want|need|would like) to know|I'd like to know|I wonder"
    r"|I (?:can't|cannot|don't|do not) (?:quite |seem to )?(?:remember|recall)"
    r"|I(?:'ve| have)? (?:forgot|forgotten)(?=:| wh| how))(?: again)?(?: of)?(?P<direct>[:?,.]*)\s+",
    re.I,
)


def other_wordings(question: str) -> list[str]:
    """Return at most `MOST` other wordings of a short question; nothing for another text."""
    if "\n" in question.strip() or not question.strip() or len(question) > LONGEST:
        return []
    question = _plain(question)
    asking, reworded = ASKING.match(question), list[str]()
    if known := _recognized(question):
        reworded = _reworded(known, question)[: MOST - 2]
    if not (asking or question.endswith("?")):
        return reworded
    lower = question[0].lower() + question[1:] if asking else question
    core = question[asking.end() :].rstrip("? ") if asking else ""
    words = {"question": question, "lower": lower, "core": core[:1].upper() + core[1:]}
    framed = [frame.format(**words) for frame in FRAMES if core or "{core}" not in frame]
    return [*reworded, *framed][:MOST]


def wordings_about_anything(question: str | None = None) -> list[str]:
    """Return questions that ask for the same as `question`, about anything (`ANYTHING`); nothing for another one.

    They are the plainest of its group, if that is compared. Without a question return those of all groups.
    """
    known = None if question is None else _recognized(_plain(question))
    groups = _groups() if question is None else [known.group] if known else []
    slots = _slots({"x": ANYTHING})
    found = ([_filled(template, slots) for template in group["questions"]] for group in groups if group["is_compared"])
    return [text for texts in found for text in list(filter(None, texts))[:ABOUT_ANYTHING]]


def asked_for(question: str) -> str:
    """Return what `question` asks for: the same text for questions of which only the newest answer can be true."""
    question = _plain(question)
    if (known := _recognized(question)) and known.group["has_one_answer"]:
        return _filled(known.group["questions"][0], known.slots).casefold() or question.casefold()
    return question.casefold().rstrip("?!. ")


def topic_of(question: str) -> str:
    """Return what kind of thing `question` certainly asks for (a name, a birthday); nothing where that is not known."""
    known = _recognized(_plain(question))
    return known.group["topic"] if known else ""


class Group(TypedDict):
    """Templates of questions to the same answer; see the README beside the file."""

    topic: str
    has_one_answer: bool
    is_compared: bool
    questions: list[str]


class Recognized(NamedTuple):
    """A question as a group has it: its template, and the words in the slots of all of them."""

    group: Group
    template: str
    slots: Mapping[str, str]


def _plain(question: str) -> str:
    return " ".join(question.replace("’", "'").split())


def _reworded(known: Recognized, question: str) -> list[str]:
    """Return the question in all other words of its group, in an order of its own."""
    others = (_filled(other, known.slots) for other in known.group["questions"] if other != known.template)
    dice = random.Random(question)
    return sorted((other for other in others if other and other != question), key=lambda _: dice.random())


def _canonical(question: str) -> str:
    """Return the question in one spelling, and with one opening: `Tell me`."""
    question = SPELLED.sub(lambda word: SPELLINGS[word[0].lower()], question)
    if before := BEFORE.match(question):
        question = question[before.end() :]
    if question.rstrip("?.! ").endswith(("please", "again")):
        question = AFTER.sub("", question)
    if opening := OPENING.match(question):
        return ("" if opening["direct"] else "Tell me ") + question[opening.end() :]
    return question


def _recognized(question: str) -> Recognized | None:
    """Return the question as the first group has it that knows it."""
    question, (templates, by_word) = _canonical(question), _index()
    words = set(WORD.findall(question.casefold()))
    for number in sorted(number for word in words for number in by_word.get(word, ())):
        group, template = templates[number]
        asked = _pattern(template).fullmatch(question)
        if asked and not any(map(_is_no_noun, asked.groupdict().values())):
            return Recognized(group, template, _slots(asked.groupdict()))
    return None


def _is_no_noun(slot: str) -> bool:
    """Return whether there is more than a noun in a slot: `sister living in`, `passport called`."""
    others = slot.split()[1:]
    return bool(others) and (not FUNCTION.isdisjoint(others) or NO_NOUN.fullmatch(others[-1]) is not None)


@cache
def _groups() -> list[Group]:
    groups: list[Group] = json.loads((files("lars_agent.data") / "wordings.json").read_text(encoding="utf-8"))
    return groups


@cache
def _index() -> tuple[list[tuple[Group, str]], Mapping[str, Sequence[int]]]:
    """Return all templates, each with its group, in their order; and their numbers by the rarest word of each."""
    templates = [(group, template) for group in _groups() for template in group["questions"]]
    words = [set(WORD.findall(SLOT.sub(" ", _canonical(template)).casefold())) for _, template in templates]
    counts = Counter(word for own in words for word in own)
    by_word = defaultdict[str, list[int]](list)
    for number, own in enumerate(words):
        by_word[min(own, key=lambda word: (counts[word], word))].append(number)
    return templates, dict(by_word)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Return the pattern of questions of this template; a group for each of its slots."""
    template = _canonical(template)
    kinds = {"x": f"I|we|{NOUN}", "xo": NOUN, "xs": f"my|our|{NOUN}'s?", "n": r"[\w-]+(?: [\w-]+){0,2}"}
    kinds["their"] = "my|our|his|her|its|their|the"
    kinds |= {verb: "|".join(dict.fromkeys(forms)) for verb, forms in FORMS.items()}
    words, slots = SLOT.split(template.rstrip("?."))[::2], SLOT.findall(template)
    text = re.escape(words[0]) + "".join(
        f"(?P<{slot}>{kinds[slot]}){re.escape(word)}" for slot, word in zip(slots, words[1:], strict=True)
    )
    return re.compile(rf"(?i:{text[0]}){text[1:]}\s*[?.]?" if words[0] else rf"{text}\s*[?.]?")


def _slots(asked: Mapping[str, str]) -> dict[str, str]:
    """Return the words for every slot of the group's templates; none for one that is not known."""
    noun = asked.get("x") or asked.get("xo") or re.sub("'s?$", "", asked.get("xs", ""))
    person = _person(noun, asked)
    if noun in SPEAKERS:
        names = dict(zip(("x", "xs", "xo"), SPEAKERS[noun], strict=True))
        their = names["xs"]
    else:
        possessive = f"{noun}'" if person == PLURAL and noun.endswith("s") else f"{noun}'s"
        names = {"x": noun, "xo": noun, "xs": possessive if noun else ""}
        said = asked.get("their") if asked.get("their") in ("his", "her", "its", "their") else None
        their = said or ("their" if person == PLURAL else _pronoun(noun))
    return {"n": asked.get("n", ""), "their": their} | names | {verb: forms[person] for verb, forms in FORMS.items()}


def _person(noun: str, asked: Mapping[str, str]) -> int:
    """Return the person and number, as the verb shows it, or else the noun."""
    if noun in SPEAKERS:
        return SPEAKER if SPEAKERS[noun][0] == "I" else PLURAL
    if verbs := FORMS.keys() & asked.keys():
        return PLURAL if any(asked[verb] == FORMS[verb][PLURAL] for verb in verbs) else SINGULAR
    return PLURAL if asked.get("xs", "").endswith("s'") or PLURAL_NOUN.fullmatch(noun) else SINGULAR


def _pronoun(noun: str) -> str:
    """Return her or his, where the word for somebody tells; nothing for another one."""
    head = noun.rpartition(" ")[2]
    return "her" if head in ENGLISH["female"] else "his" if head in ENGLISH["male"] else ""


def _filled(template: str, slots: Mapping[str, str]) -> str:
    """Return the question; nothing where a word is unknown, or it is no English (`name of me`, `are they a fan`)."""
    needed = SLOT.findall(template)
    is_plural, is_of_speaker = slots["is"] == FORMS["is"][PLURAL], "xo" in needed and slots["xo"] in ("me", "us")
    if is_of_speaker or (is_plural and "{is} {x} a " in template) or not all(slots[slot] for slot in needed):
        return ""
    return SLOT.sub(lambda slot: slots[slot[1]], template)
