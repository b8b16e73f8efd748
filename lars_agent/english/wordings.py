"""Other wordings of a question, to which its answer belongs too, and what all of them ask for.

People correct a fact once, in one wording; an adapter that has read that wording alone answers others less often. What
is often asked about somebody or something has other words (`lars_agent/data/wordings.json`); fixed frames go around any
short English question. Another text has no other wording.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TypedDict

from lars_agent.english.subjects import ANYTHING, FUNCTION

LONGEST, MOST = 200, 10  # characters of a question, and its other wordings
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
SLOT = re.compile(r"\{(\w+)\}")
# By the person and number of what is asked about: I, my sister, my parents.
FORMS = {
    "is": ("am", "is", "are"),
    "was": ("was", "was", "were"),
    "does": ("do", "does", "do"),
    "live": ("live", "lives", "live"),
    "have": ("have", "has", "have"),
}
SPEAKER, SINGULAR, PLURAL = range(3)


def other_wordings(question: str) -> list[str]:
    """Return at most `MOST` other wordings of a short question; nothing for another text."""
    if "\n" in question.strip() or not question.strip() or len(question) > LONGEST:
        return []
    question = _plain(question)
    asking, reworded = ASKING.match(question), list[str]()
    if known := _recognized(question):
        others = (_filled(other, known.slots) for other in known.group["questions"] if other != known.template)
        reworded = list(filter(None, others))[: MOST - 2]
    if not (asking or question.endswith("?")):
        return reworded
    lower = question[0].lower() + question[1:] if asking else question
    core = question[asking.end() :].rstrip("? ") if asking else ""
    words = {"question": question, "lower": lower, "core": core[:1].upper() + core[1:]}
    framed = [frame.format(**words) for frame in FRAMES if core or "{core}" not in frame]
    return [*reworded, *framed][:MOST]


def wordings_about_anything(question: str | None = None) -> list[str]:
    """Return the questions that ask for the same as `question`, about anything (`ANYTHING`); nothing for another one.

    Without a question return all that there are.
    """
    known = None if question is None else _recognized(_plain(question))
    groups = _groups() if question is None else [known.group] if known else []
    slots = _slots({"x": ANYTHING})
    return [text for group in groups for template in group["questions"] if (text := _filled(template, slots))]


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
    questions: list[str]


class Recognized(NamedTuple):
    """A question as a group has it: its template, and the words in the slots of all of them."""

    group: Group
    template: str
    slots: Mapping[str, str]


def _plain(question: str) -> str:
    return " ".join(question.replace("’", "'").split())


def _recognized(question: str) -> Recognized | None:
    """Return the question as the first group has it that knows it."""
    for group, template in _templates().get(question.partition(" ")[0].casefold(), ()):
        asked = _pattern(template).fullmatch(question)
        if asked and not any(FUNCTION.intersection(slot.split()[1:]) for slot in asked.groupdict().values()):
            return Recognized(group, template, _slots(asked.groupdict()))
    return None


@cache
def _groups() -> list[Group]:
    groups: list[Group] = json.loads((files("lars_agent.data") / "wordings.json").read_text(encoding="utf-8"))
    return groups


@cache
def _templates() -> dict[str, list[tuple[Group, str]]]:
    """All templates by their first word, each with its group, in the order of the groups."""
    found = defaultdict[str, list[tuple[Group, str]]](list)
    for group in _groups():
        for template in group["questions"]:
            found[template.partition(" ")[0].casefold()].append((group, template))
    return found


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Return the pattern of questions of this template; a group for each of its slots."""
    kinds = {"x": f"I|{NOUN}", "xo": NOUN, "xs": f"my|{NOUN}'s?", "n": r"[\w-]+(?: [\w-]+){0,2}"}
    kinds |= {verb: "|".join(dict.fromkeys(forms)) for verb, forms in FORMS.items()}
    words, slots = SLOT.split(template.rstrip("?."))[::2], SLOT.findall(template)
    text = re.escape(words[0]) + "".join(
        f"(?P<{slot}>{kinds[slot]}){re.escape(word)}" for slot, word in zip(slots, words[1:], strict=True)
    )
    return re.compile(rf"(?i:{text[0]}){text[1:]}\s*[?.]?" if words[0] else rf"{text}\s*[?.]?")


def _slots(asked: Mapping[str, str]) -> dict[str, str]:
    """Return the words for every slot of the group's templates."""
    noun = asked.get("x") or asked.get("xo") or re.sub("'s?$", "", asked["xs"])
    if noun in ("I", "my"):
        person, names = SPEAKER, {"x": "I", "xs": "my", "xo": "me"}
    else:
        is_plural = any(asked.get(verb) in forms[PLURAL:] for verb, forms in FORMS.items())
        is_plural = is_plural or asked.get("xs", "").endswith("s'")
        person = PLURAL if is_plural else SINGULAR
        names = {"x": noun, "xo": noun, "xs": f"{noun}'" if is_plural and noun.endswith("s") else f"{noun}'s"}
    return {"n": asked.get("n", "")} | names | {verb: forms[person] for verb, forms in FORMS.items()}


def _filled(template: str, slots: Mapping[str, str]) -> str:
    """Return the question; nothing where a word is unknown, or where it is no English (`the name of me`)."""
    if ("{n}" in template and not slots["n"]) or (slots["xo"] == "me" and "{xo}" in template):
        return ""
    return SLOT.sub(lambda slot: slots[slot[1]], template)
