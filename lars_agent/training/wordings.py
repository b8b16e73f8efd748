"""Other wordings of a question, to which its answer belongs too.

People correct a fact once, in one wording; an adapter that has read that wording alone answers others less often. Fixed
frames around short English questions; another text has none.
"""

from __future__ import annotations

import re

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


def other_wordings(question: str) -> list[str]:
    """Return other wordings of a short question; nothing for another text."""
    question = question.strip()
    asking = ASKING.match(question)
    if len(question) > LONGEST or "\n" in question or not (asking or question.endswith("?")):
        return []
    lower = question[0].lower() + question[1:] if asking else question
    core = question[asking.end() :].rstrip("? ") if asking else ""
    words = {"question": question, "lower": lower, "core": core[:1].upper() + core[1:]}
    return [frame.format(**words) for frame in FRAMES if core or "{core}" not in frame]
