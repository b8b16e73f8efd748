"""What kind of answer a question wants, as far as its words show it: a place, a time, a person or name, a measure."""

from __future__ import annotations

import re

from lars_agent.english.subjects import ENGLISH

KINDS = {
    kind: re.compile(
        rf"\b(?:{alone})\b|\b(?:what|which)(?:'s the)?\s+(?:[\w-]+\s+)?(?:{'|'.join(ENGLISH[f'answer_{kind}'])})\b",
        re.I,
    )
    for kind, alone in (
        ("place", r"where(?:abouts)?"),
        ("time", r"when(?!\s+(?:i|we|you|s?he|they|it)\b)|how\s+(?:early|late|soon)|birthday"),
        ("person", r"who|whom|whose|who's|called|named?|surname"),
        ("measure", r"how\s+(?:many|much|long|far|often|big|large|tall|high|old|hot|warm|strong|heavy|frequently)"),
    )
}


def answers_of(question: str) -> frozenset[str]:
    """Return the kinds of answer that `question` asks for; none where its words do not show it."""
    return frozenset(kind for kind, asks in KINDS.items() if asks.search(question))
