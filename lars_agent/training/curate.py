"""From all feedback to what tonight's job learns and what it is judged by: filter, dedupe, scrub, split.

Pure: the same examples, policy and seed give the same answer, whatever the night. The choice between learning and
judging falls on each example by itself, by the hash of its source id, so that a growing collection moves as few
examples as can be from one side to the other: an incumbent must not have learned what its successor is judged by.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from lars_agent.errors import NothingToLearn
from lars_agent.example import Example
from lars_agent.records import record
from lars_agent.training.scrub import find_secret

__all__ = ["Curated", "CurationPolicy", "Dropped", "curate"]

SUPERSEDED = "superseded"


@record("curation")
class CurationPolicy:
    """Limits of what is kept and held out; a section of the settings."""

    max_chars: int = Field(
        default=16_000, ge=1, description="Longest prompt and reply together, characters; longer examples are dropped."
    )
    heldout_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the examples to judge by, of those whose reply is also trained in another phrasing and "
        "of approved replies: the only correction of a fact is always trained.",
    )
    min_heldout: int = Field(
        default=4,
        ge=1,
        description="Least number of examples to judge by, where that takes no only correction and at most a quarter "
        "of all; one is held out in any case.",
    )
    max_heldout: int = Field(default=64, ge=1, description="Largest number of examples to judge by.")

    def __post_init__(self) -> None:
        if self.max_heldout < self.min_heldout:
            raise ValueError(f"max_heldout must be at least min_heldout ({self.min_heldout}), not {self.max_heldout}")


@dataclass(frozen=True)
class Dropped:
    """An example that is neither learned nor judged by: where it came from, and why in a few words."""

    source_id: str
    reason: str


@dataclass(frozen=True)
class Curated:
    """What to learn, what to judge by, and what was dropped; each in the order the examples came."""

    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    dropped: tuple[Dropped, ...]


def curate(examples: Sequence[Example], policy: CurationPolicy, seed: int = 0) -> Curated:
    """The curated `examples`, which come oldest first; of two with the same prompt the later one counts.

    An example that was superseded stays so even if what replaced it is dropped for its length or for a secret: the
    person has taken it back. Raises NothingToLearn when fewer than two examples are left.
    """
    dropped: dict[int, str] = {}

    def drop(reasons: Iterable[tuple[int, str | None]]) -> None:
        dropped.update((index, reason) for index, reason in reasons if reason)

    def left() -> list[int]:
        return [index for index in range(len(examples)) if index not in dropped]

    drop((index, _fault(examples[index])) for index in left())
    drop((index, SUPERSEDED) for index in _superseded(examples, left()))
    drop((index, _length_fault(examples[index], policy.max_chars)) for index in left())
    drop((index, _secret(examples[index])) for index in left())
    kept = [examples[index] for index in left()]
    if len(kept) < 2:
        raise NothingToLearn(_too_few(len(kept), dropped.values()))
    heldout = _choose_heldout(kept, policy, seed)
    return Curated(
        train=tuple(example for index, example in enumerate(kept) if index not in heldout),
        heldout=tuple(kept[index] for index in sorted(heldout)),
        dropped=tuple(Dropped(examples[index].source_id, dropped[index]) for index in sorted(dropped)),
    )


def _fault(example: Example) -> str | None:
    """Why nothing can be learned from this example at all, or None."""
    if not example.response.strip():
        return "empty reply"
    if not example.messages or example.messages[-1]["role"] != "user" or not example.messages[-1]["content"].strip():
        return "no prompt"
    if not (math.isfinite(example.weight) and example.weight > 0.0):
        return f"weight {example.weight:g}"
    if any("\ud800" <= character <= "\udfff" for text in _texts(example) for character in text):
        return "not valid Unicode"
    return None


def _superseded(examples: Sequence[Example], indices: Iterable[int]) -> list[int]:
    """Those of `indices` whose prompt comes again later."""
    latest: dict[tuple[tuple[str, str], ...], int] = {}
    superseded = []
    for index in indices:
        prompt = tuple((turn["role"], _composed(turn["content"]).strip()) for turn in examples[index].messages)
        if prompt in latest:
            superseded.append(latest[prompt])
        latest[prompt] = index
    return superseded


def _length_fault(example: Example, max_chars: int) -> str | None:
    return "too long" if sum(map(len, _texts(example))) > max_chars else None


def _secret(example: Example) -> str | None:
    kinds = (find_secret(text) for text in _texts(example))
    return next((f"holds {kind}" for kind in kinds if kind), None)


def _too_few(left: int, reasons: Iterable[str]) -> str:
    counts = Counter(reasons)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return (
        f"two examples are needed, one to learn and one to judge by; {left} of {left + counts.total()} is left"
        f"{f' ({why})' if why else ''}. Correct or approve more replies"
    )


def _choose_heldout(kept: Sequence[Example], policy: CurationPolicy, seed: int) -> set[int]:
    """Indices of the examples to judge by: some of those that may be, or the one that it hurts least to leave out."""
    draws = [_draw(example, seed) for example in kept]
    spare = _spare(kept)
    ranked = sorted(range(len(kept)), key=lambda index: (spare[index], draws[index], index))
    allowed = [index for index in ranked if spare[index] != _NEEDED]
    least = min(policy.min_heldout, max(1, len(kept) // 4))
    most = min(policy.max_heldout, len(kept) // 2)
    drawn = [index for index in allowed if draws[index] < policy.heldout_share]
    filled = drawn + [index for index in allowed if index not in set(drawn)][: max(0, least - len(drawn))]
    return set(filled[:most] or ranked[:1])


_PHRASED_AGAIN, _APPROVED, _NEEDED = 0, 1, 2


def _spare(kept: Sequence[Example]) -> list[int]:
    """How readily each example can be left out of training.

    Of several phrasings of one reply, the first of the weightiest is needed: whether the reply was learned from it is
    what the others can tell.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(kept):
        groups.setdefault(_gist(example.response), []).append(index)
    learned = {max(group, key=lambda index: kept[index].weight) for group in groups.values()}
    alone = {group[0] for group in groups.values() if len(group) == 1}

    def spare(index: int) -> int:
        if index not in learned:
            return _PHRASED_AGAIN
        return _APPROVED if index in alone and kept[index].weight < 1.0 else _NEEDED

    return [spare(index) for index in range(len(kept))]


def _gist(response: str) -> str:
    """What two replies share that differ in case, spacing or final punctuation only."""
    return " ".join(_composed(response).casefold().split()).rstrip(".!")


def _draw(example: Example, seed: int) -> float:
    """A number in [0, 1) that this example draws every night."""
    name = example.source_id or "\n".join(_texts(example))
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _texts(example: Example) -> list[str]:
    return [*(turn["content"] for turn in example.messages), example.response]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
