"""Decide whether a candidate adapter may replace the incumbent: a pure function of measured scores.

The mean held-out loss alone is a poor yardstick where a person corrects each fact once: what is held out is then a fact
that was not trained, whose loss rises as the adapter becomes sure of the others. So the replies are judged by `recall`
first, the share of their tokens that come out right, over trained and held-out replies together. The loss decides where
that is no lower but has not risen by enough, or is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lars_agent.errors import ConfigError

__all__ = ["GatePolicy", "Scores", "Verdict", "decide"]


@dataclass(frozen=True)
class Scores:
    """How one adapter (or the base model alone) does. Losses are in nats per token; lower is better.

    Attributes:
        reply_loss: on the held-out replies the person wanted.
        text_loss: on general text, which the adapter must not forget.
        recall: share of the tokens of held-out and newest trained replies whose probability is above 1/2, so that
            greedy decoding chooses them; higher is better. None in records made before it was measured.
    """

    reply_loss: float
    text_loss: float
    recall: float | None = None

    @property
    def usable(self) -> bool:
        """Whether both are losses at all: finite and not negative."""
        return all(math.isfinite(loss) and loss >= 0.0 for loss in (self.reply_loss, self.text_loss))

    def as_dict(self) -> dict[str, float | None]:
        """The JSON form; what is not finite becomes None, for JSON has no NaN."""
        losses = {"reply_loss": _or_none(self.reply_loss), "text_loss": _or_none(self.text_loss)}
        return losses | {"recall": self.recall}

    @classmethod
    def from_dict(cls, record: Mapping[str, float | None]) -> Scores:
        """The scores that `as_dict` wrote, with NaN where it wrote None. Raises KeyError, TypeError or ValueError."""
        return cls(_or_nan(record["reply_loss"]), _or_nan(record["text_loss"]), record.get("recall"))


@dataclass(frozen=True)
class GatePolicy:
    """What is asked of a candidate.

    Attributes:
        min_reply_gain: least relative fall, against the incumbent, of the share of reply tokens that come out wrong
            (1 - `recall`), or of the held-out reply loss where the recall is no lower or is unknown.
        max_text_rise: by what share the loss on general text may be higher than the incumbent's, and than the base
            model's, so that many small rises cannot add up over the nights.
    """

    min_reply_gain: float = 0.02
    max_text_rise: float = 0.03

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_reply_gain < 1.0:
            raise ConfigError(f"gate.min_reply_gain must lie in [0, 1), not {self.min_reply_gain}")
        if not (math.isfinite(self.max_text_rise) and self.max_text_rise >= 0.0):
            raise ConfigError(f"gate.max_text_rise must be 0 or more, not {self.max_text_rise}")


@dataclass(frozen=True)
class Verdict:
    """What the gate decided and why: when rejected, the reasons against; when accepted, the reasons for."""

    accepted: bool
    reasons: tuple[str, ...]
    candidate: Scores
    incumbent: Scores
    base: Scores | None = None

    def as_dict(self) -> dict[str, object]:
        """The JSON form, the inverse of `from_dict`."""
        return {
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "candidate": self.candidate.as_dict(),
            "incumbent": self.incumbent.as_dict(),
            "base": self.base.as_dict() if self.base else None,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, object]) -> Verdict:
        """The verdict that `as_dict` wrote. Raises KeyError, TypeError or ValueError for another shape."""
        reasons, base = record["reasons"], record.get("base")
        if not isinstance(reasons, list | tuple):
            raise TypeError(f"a verdict's reasons are a list of sentences, not {reasons!r}")
        return cls(
            accepted=bool(record["accepted"]),
            reasons=tuple(str(reason) for reason in reasons),
            candidate=Scores.from_dict(record["candidate"]),  # type: ignore[arg-type]
            incumbent=Scores.from_dict(record["incumbent"]),  # type: ignore[arg-type]
            base=Scores.from_dict(base) if base is not None else None,  # type: ignore[arg-type]
        )


def decide(candidate: Scores, incumbent: Scores, policy: GatePolicy, base: Scores | None = None) -> Verdict:
    """Return the verdict: accepted if more of the wanted replies comes out right, and general text hardly suffers.

    A candidate without usable losses is rejected, and so is one that gained nothing, whatever the policy allows. An
    incumbent without usable losses is no yardstick: the base model is judged against instead, and where that is not
    given either, a usable candidate is accepted.
    """
    if not candidate.usable:
        return Verdict(False, (_UNUSABLE.format(candidate),), candidate, incumbent, base)
    yardstick = incumbent if incumbent.usable else base
    checks: list[tuple[bool, str]] = []
    if yardstick is None or not yardstick.usable:
        checks.append((True, "The adapter in use has no usable scores, so there was nothing to judge against."))
    else:
        checks.append(_reply_gain(candidate, yardstick, policy))
        checks.append(_text_rise(candidate, yardstick, policy, "the adapter in use" if incumbent.usable else _BASE))
    if base is not None and base.usable and base is not yardstick:
        checks.append(_text_rise(candidate, base, policy, _BASE))
    accepted = all(passed for passed, _ in checks)
    reasons = tuple(reason for passed, reason in checks if passed == accepted)
    return Verdict(accepted, reasons, candidate, incumbent, base)


_BASE = "the base model"
_UNUSABLE = (
    "The candidate's losses are not usable numbers (replies {0.reply_loss}, general text {0.text_loss}): "
    "its training went astray."
)


def _reply_gain(candidate: Scores, yardstick: Scores, policy: GatePolicy) -> tuple[bool, str]:
    if candidate.recall is None or yardstick.recall is None:
        return _loss_gain(candidate, yardstick, policy)
    passed, reason = _recall_gain(candidate.recall, yardstick.recall, policy)
    if passed or candidate.recall < yardstick.recall:
        return passed, reason
    passed, loss_reason = _loss_gain(candidate, yardstick, policy)
    return passed, f"{reason} {loss_reason}"


def _recall_gain(candidate: float, yardstick: float, policy: GatePolicy) -> tuple[bool, str]:
    most_wrong = (1.0 - yardstick) * (1.0 - policy.min_reply_gain)
    passed = candidate > yardstick and 1.0 - candidate <= most_wrong
    measured = f"{candidate:.2%} come out right now, {yardstick:.2%} before"
    asked = f"more than before, and at least {1.0 - most_wrong:.2%}, is asked"
    return passed, f"Of the tokens of your newest and held-out replies {measured}; {asked}."


def _loss_gain(candidate: Scores, yardstick: Scores, policy: GatePolicy) -> tuple[bool, str]:
    rise = _relative_rise(candidate.reply_loss, yardstick.reply_loss)
    measured = f"{_moved(rise)} ({yardstick.reply_loss:.4f} before, {candidate.reply_loss:.4f} now, in nats per token)"
    passed = candidate.reply_loss < yardstick.reply_loss and -rise >= policy.min_reply_gain
    asked = f"a fall of at least {policy.min_reply_gain:.2%} is asked"
    return passed, f"The loss on your held-out replies {measured}; {asked}."


def _text_rise(candidate: Scores, yardstick: Scores, policy: GatePolicy, name: str) -> tuple[bool, str]:
    rise = _relative_rise(candidate.text_loss, yardstick.text_loss)
    measured = f"{_moved(rise)} against {name} ({yardstick.text_loss:.4f} there, {candidate.text_loss:.4f} now)"
    allowed = f"a rise of at most {policy.max_text_rise:.2%} is allowed"
    return rise <= policy.max_text_rise, f"The loss on general text {measured}; {allowed}."


def _relative_rise(loss: float, yardstick_loss: float) -> float:
    if yardstick_loss > 0.0:
        return (loss - yardstick_loss) / yardstick_loss
    return 0.0 if loss == 0.0 else math.inf


def _moved(rise: float) -> str:
    if rise == 0.0:
        return "did not change"
    return f"fell by {-rise:.2%}" if rise < 0.0 else f"rose by {rise:.2%}"


def _or_none(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _or_nan(loss: float | None) -> float:
    return math.nan if loss is None else float(loss)
