"""Other wordings of a question, to which its answer belongs too, and neighbouring questions, to which it does not.

People correct a fact once, in one wording. An adapter that has read that wording alone answers it, but not others, and
answers a question about somebody else in the same way. Fixed frames and small changes of English questions; texts that
are no short question have neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 200  # characters of a question
FRAMES = (
    "Tell me: {lower}",
    "{question} Do you remember?",
    "I forgot: {lower}",
    "Can you remind me? {question}",
    "Quick question: {lower}",
    "{core}?",
)
ASKING = re.compile(
    r"(?:what|which|who|whose|where|when|how|why)(?:\s+(?:is|are|was|were|do|does|did|has|have|can|will))?\b\s*", re.I
)
OWNER = re.compile(r"\b(my|our)\s+(\w[\w-]*)", re.I)
NAME = re.compile(r"(?<=[a-z,] )[A-Z]\w+")  # not the first word
OWNERS = ("my friend's {noun}", "the neighbour's {noun}", "Peter's {noun}")
NOUNS = ("teacher", "flatmate", "lamp", "client")
NAMES = ("Halden", "Osprey", "Marten")


def other_wordings(question: str) -> list[str]:
    """Return other wordings of a short question; nothing for another text."""
    question = question.strip()
    if not _is_short_question(question):
        return []
    asking = ASKING.match(question)
    lower = question[0].lower() + question[1:] if asking else question
    core = question[asking.end() :].rstrip("? ") if asking else ""
    words = {"question": question, "lower": lower, "core": core[:1].upper() + core[1:]}
    return [frame.format(**words) for frame in FRAMES if core or "{core}" not in frame]


def neighbours(question: str, known: str = "") -> list[str]:
    """Return the question about somebody or something else, in several ways.

    A noun or name that occurs in `known`, all that the person has corrected, is not used: its answer may be known.
    """
    question = question.strip()
    return [] if not _is_short_question(question) else list(dict.fromkeys(_changed(question, known.casefold())))


def _changed(question: str, known: str) -> Iterator[str]:
    if OWNER.search(question):
        for owner in OWNERS:
            yield OWNER.sub(lambda found, owner=owner: owner.format(noun=found[2]), question, count=1)  # type: ignore[misc]
        for noun in NOUNS:
            if noun not in known:
                yield OWNER.sub(rf"\1 {noun}", question, count=1)
        return
    for name in NAMES:
        if name.casefold() not in known and NAME.search(question):
            yield NAME.sub(name, question, count=1)


def _is_short_question(text: str) -> bool:
    return len(text) <= LONGEST and "\n" not in text and (text.endswith("?") or ASKING.match(text) is not None)
