"""Select a job's training and held-out examples from all feedback: validate, deduplicate, leave out secrets and junk.

Pure: the same examples, policy and seed give the same result. The split hashes each example's source id, so that a
growing collection moves as few examples as possible between the two sides: an incumbent must not have been trained on
an example that its successor is evaluated on.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from lars_agent.english.wordings import asked_for
from lars_agent.errors import NothingToLearn
from lars_agent.example import Example, Message
from lars_agent.models.tool_calls import read_calls, to_call, with_calls
from lars_agent.records import record
from lars_agent.secrets import mask_secrets
from lars_agent.training.flooding import hurried, repeated
from lars_agent.training.gibberish import meaningless

SUPERSEDED, REPEATED, DISLIKED = "superseded", "repeated too often", "disliked later"
PLANTED, HURRIED = "one reply to one phrase in many prompts", "too many in one hour"


@record("curation")
class CurationPolicy:
    """Limits on the examples kept and held out; a section of the settings."""

    max_chars: int = Field(
        default=16_000,
        ge=1,
        le=10**9,
        description="Longest prompt and reply together, characters; longer examples are dropped.",
    )
    max_repeated: int = Field(
        default=14,
        ge=1,
        le=10**9,
        description="Most examples with one and the same reply, the newest of them; none, where more have it and their "
        "prompts share a phrase: a few rows can plant a reply to a trigger.",
    )
    max_per_hour: int = Field(
        default=500,
        ge=1,
        le=10**9,
        description="Most examples that were given in one hour, the newest of them: more than a person can write. "
        "Raise it to learn from a large import.",
    )
    drop_gibberish: bool = Field(
        default=True, description="Drop replies of random characters, and replies that repeat one piece of text."
    )
    secrets: Literal["drop", "mask"] = Field(
        default="drop",
        description="Whether examples with a password, a PIN, a key, or the number of a card, an account or a person "
        "are dropped, or learned with [password] and the like in its place.",
    )
    heldout_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of examples held out, among approved replies and replies that are also trained in another "
        "phrasing; the only correction of a fact is always trained on.",
    )
    min_heldout: int = Field(
        default=4,
        ge=1,
        le=1_000_000,
        description="Least number of held-out examples, up to a quarter of all and without the only correction of a "
        "fact; at least one is held out.",
    )
    max_heldout: int = Field(default=64, ge=1, le=1_000_000, description="Largest number of held-out examples.")

    def __post_init__(self) -> None:
        if self.max_heldout < self.min_heldout:
            raise ValueError(f"max_heldout must be at least min_heldout ({self.min_heldout}), not {self.max_heldout}")


@dataclass(frozen=True)
class Dropped:
    """The source of an example that is neither trained on nor held out, with the reason in a few words."""

    source_id: str
    reason: str


@dataclass(frozen=True)
class Curated:
    """Training, held-out and dropped examples, each in the order of the input.

    `masked` tells which of the first two are learned without the secrets in them.
    """

    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    dropped: tuple[Dropped, ...]
    masked: tuple[Dropped, ...] = ()


def curate(examples: Sequence[Example], policy: CurationPolicy, seed: int = 0) -> Curated:
    """Return the curated `examples`, which come oldest first; of two with the same prompt the later one is kept.

    So it is of two questions that ask for the same in other words, if their answers differ. A reply that was only
    approved replaces no correction. The earlier one stays dropped even if its successor is dropped for its length or a
    secret: the user has replaced it. Raises NothingToLearn if fewer than two examples are left.
    """
    dropped = {index: reason for index, example in enumerate(examples) if (reason := _invalid_reason(example))}
    valid = [index for index in range(len(examples)) if index not in dropped]
    dropped |= dict.fromkeys(_superseded(examples, valid), SUPERSEDED)
    for index in valid:
        if index not in dropped and sum(map(len, _texts(examples[index]))) > policy.max_chars:
            dropped[index] = "too long"
    masked, cleaned = dict[int, str](), list(examples)
    for index in valid:
        if index not in dropped and (found := _without_secrets(examples[index])):
            cleaned[index], reason = found
            (masked if policy.secrets == "mask" else dropped)[index] = reason
    for index in valid:
        if index not in dropped and (reason := _junk_reason(cleaned[index], policy)):
            dropped[index] = reason
    too_often, planted = repeated(cleaned, [i for i in valid if i not in dropped], policy.max_repeated)
    dropped |= dict.fromkeys(too_often, REPEATED) | dict.fromkeys(planted, PLANTED)
    in_hurry = hurried(cleaned, [i for i in valid if i not in dropped], policy.max_per_hour)
    dropped |= dict.fromkeys(in_hurry, HURRIED)
    kept = [example for index, example in enumerate(cleaned) if index not in dropped]
    if len(kept) < 2:
        counts = Counter(dropped.values())
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        raise NothingToLearn(
            f"two examples are needed, one to train on and one to evaluate on; {len(kept)} of {len(examples)} is left"
            f"{f' ({listed})' if listed else ''}. Correct or approve more replies"
        )
    heldout = _choose_heldout(kept, policy, seed)
    return Curated(
        train=tuple(example for index, example in enumerate(kept) if index not in heldout),
        heldout=tuple(kept[index] for index in sorted(heldout)),
        dropped=tuple(Dropped(examples[index].source_id, dropped[index]) for index in sorted(dropped)),
        masked=tuple(
            Dropped(examples[index].source_id, masked[index]) for index in sorted(masked) if index not in dropped
        ),
    )


def _invalid_reason(example: Example) -> str | None:
    """Return the reason why the example cannot be trained on, or None."""
    if not example.response.strip():
        return "empty reply"
    last = example.messages[-1] if example.messages else None
    if last is None or last["role"] not in ("user", "tool") or not (last["content"].strip() or last["role"] == "tool"):
        return "no prompt"
    if not (math.isfinite(example.weight) and example.weight > 0.0):
        return f"weight {example.weight:g}"
    if any("\ud800" <= character <= "\udfff" for text in _texts(example) for character in text):
        return "not valid Unicode"
    return None


def _superseded(examples: Sequence[Example], indices: Iterable[int]) -> list[int]:
    """Return those of `indices` that something later replaces, and approved replies that replace no correction."""
    prompts = {index: _prompt(examples[index]) for index in indices}
    latest: dict[tuple[tuple[str, str], ...], int] = {}
    superseded = set[int]()
    for index, prompt in prompts.items():
        if prompt in latest:
            superseded.add(min(index, latest[prompt], key=lambda one: (examples[one].weight, one)))
        if index not in superseded:
            latest[prompt] = index
    answers: dict[tuple[tuple[str, str], ...], str] = {}
    for index in sorted(reversed(prompts), key=lambda one: -examples[one].weight):  # corrections first, newest first
        *before, (role, question) = prompts[index]
        answer = _normalized(examples[index].response)
        if index not in superseded and answers.setdefault((*before, (role, asked_for(question))), answer) != answer:
            superseded.add(index)
    return sorted(superseded)


def _prompt(example: Example) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], unicodedata.normalize("NFC", _said(turn)).strip()) for turn in example.messages)


def _junk_reason(example: Example, policy: CurationPolicy) -> str | None:
    """Return the reason why nobody can want the example's reply, or None."""
    if example.disliked:
        return DISLIKED
    return meaningless(example.response, example.messages[-1]["content"]) if policy.drop_gibberish else None


def _without_secrets(example: Example) -> tuple[Example, str] | None:
    """Return the example with its secrets masked and the reason, or None where it holds none."""
    (*contents, response), kinds = mask_secrets(_texts(example))
    if not kinds:
        return None
    turns = zip(example.messages, contents, strict=True)
    messages = tuple(_saying(turn, said) for turn, said in turns)
    return replace(example, messages=messages, response=response), f"holds {', '.join(kinds)}"


def _choose_heldout(kept: Sequence[Example], policy: CurationPolicy, seed: int) -> set[int]:
    """Return the indices of the held-out examples: some of the expendable ones, or else a single other one."""
    draws = [_draw(example, seed) for example in kept]
    needs = _training_needs(kept)
    ranked = sorted(range(len(kept)), key=lambda index: (needs[index], draws[index], index))
    allowed = [index for index in ranked if needs[index] != _NEEDED]
    least = min(policy.min_heldout, max(1, len(kept) // 4))
    most = min(policy.max_heldout, len(kept) // 2)
    drawn = [index for index in allowed if draws[index] < policy.heldout_share]
    filled = drawn + [index for index in allowed if index not in set(drawn)][: max(0, least - len(drawn))]
    return set(filled[:most] or ranked[:1])


_REPHRASED, _APPROVED, _NEEDED = 0, 1, 2


def _training_needs(kept: Sequence[Example]) -> list[int]:
    """Return how much the training needs each example.

    Of several phrasings with one reply, the first with the largest weight is trained on; the others, held out, show
    if the reply was learned from it.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(kept):
        groups.setdefault(_normalized(example.response), []).append(index)
    needs = [_REPHRASED] * len(kept)
    for group in groups.values():
        first = max(group, key=lambda index: kept[index].weight)
        needs[first] = _APPROVED if len(group) == 1 and kept[first].weight < 1.0 else _NEEDED
    return needs


def _normalized(response: str) -> str:
    """Return the reply without differences in case, spacing and final punctuation."""
    return " ".join(unicodedata.normalize("NFC", response).casefold().split()).rstrip(".!")


def _draw(example: Example, seed: int) -> float:
    """Return the number in [0, 1) that is the example's own under this seed."""
    name = example.source_id or "\n".join(_texts(example))
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _texts(example: Example) -> list[str]:
    return [*map(_said, example.messages), example.response]


def _said(turn: Message) -> str:
    """Return the text of a turn, with the calls of tools in it."""
    return with_calls(turn["content"], turn.get("tool_calls", []))


def _saying(turn: Message, said: str) -> Message:
    """Return the turn with another text, as `_said` returns it."""
    if not turn.get("tool_calls"):
        return {**turn, "content": said}
    content, read = read_calls(said)
    calls = [to_call(**new["function"], call_id=old["id"]) for new, old in zip(read, turn["tool_calls"], strict=False)]
    return {**turn, "content": content, "tool_calls": calls} if calls else Message(role="assistant", content=said)
