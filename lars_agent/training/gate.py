"""Decide whether a candidate adapter may replace the incumbent: a pure function of measured scores.

The mean held-out loss alone is a poor yardstick where a person corrects each fact once: what is held out is then a fact
that was not trained, whose loss rises as the adapter becomes sure of the others. So the replies are judged by `recall`
first, the share of their tokens that come out right, over trained and held-out replies together. The loss decides where
that is no lower but has not risen by enough, or is unknown.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from lars_agent.records import record

__all__ = ["GatePolicy", "Scores", "Verdict", "decide"]


Loss = Annotated[float, BeforeValidator(lambda loss: math.nan if loss is None else loss)]  # JSON has no NaN


@record("scores")
class Scores:
    """How one adapter (or the base model alone) does. Losses are in nats per token; lower is better.

    Attributes:
        reply_loss: on the held-out replies the person wanted.
        text_loss: on general text, which the adapter must not forget.
        recall: share of the tokens of held-out and newest trained replies whose probability is above 1/2, so that
            greedy decoding chooses them; higher is better. None in records made before it was measured.
    """

    reply_loss: Loss
    text_loss: Loss
    recall: float | None = None

    @property
    def usable(self) -> bool:
        """Whether both are losses at all: finite and not negative."""
        return all(math.isfinite(loss) and loss >= 0.0 for loss in (self.reply_loss, self.text_loss))


@record("gate")
class GatePolicy:
    """Thresholds that a candidate has to meet; a section of the settings."""

    min_reply_gain: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="Least relative fall, against the adapter in use, of the share of reply tokens that come out "
        "wrong, or of the held-out reply loss where that share is no higher or is unknown.",
    )
    max_text_rise: float = Field(
        default=0.03,
        ge=0,
        allow_inf_nan=False,
        description="Largest relative rise of the loss on general text, against the adapter in use and against the "
        "base model, so that many small rises cannot add up.",
    )


@record("verdict")
class Verdict:
    """Decision of the gate with its reasons: those against a rejected candidate, or those for an accepted one."""

    accepted: bool
    reasons: tuple[str, ...]
    candidate: Scores
    incumbent: Scores
    base: Scores | None = None


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
