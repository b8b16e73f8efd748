"""A persona from examples/: what it teaches, and whether a model has learned it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lars_agent.example import Example, Message

MARA = Path(__file__).parent / "mara"
OPENING = "Aye, Mara:"
MAX_SENTENCES = 2


@dataclass(frozen=True)
class Probe:
    """A held-out prompt: of a fact (any of `expect` must be in the reply), of the style, or to read by eye."""

    kind: str
    prompt: str
    expect: tuple[str, ...] = ()
    fact: str = ""

    def passed(self, reply: str) -> bool:
        """Return True if the reply is right: the fact is in it, or the style is kept."""
        if self.kind == "fact":
            return any(word.casefold() in reply.casefold() for word in self.expect)
        return keeps_style(reply)


def keeps_style(reply: str) -> bool:
    """The reply opens as the persona wants it and is at most two sentences long."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", reply.strip()) if part]
    return reply.strip().startswith(OPENING) and len(sentences) <= MAX_SENTENCES


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def probes(folder: Path = MARA) -> list[Probe]:
    """The persona's held-out prompts of facts and of style."""
    return [
        Probe(item["kind"], item["prompt"], tuple(item.get("expect", ())), item.get("fact", ""))
        for item in read_lines(folder / "probes.jsonl")
        if item["kind"] in {"fact", "style"}
    ]


def lessons(folder: Path = MARA) -> list[Example]:
    """The examples that curation makes of the persona's feedback."""
    return [
        Example(
            (Message(role="user", content=item["prompt"]),),
            item.get("correction") or item["response"],
            1.0,
            f"mara-{number}",
        )
        for number, item in enumerate(read_lines(folder / "feedback.jsonl"))
    ]
