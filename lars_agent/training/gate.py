"""Decide whether a candidate adapter may replace the incumbent: a pure function of measured scores.

The mean held-out loss alone misleads if each fact is corrected once: a held-out fact is then one that was not trained,
and its loss rises as the adapter becomes sure of the others. So `recall` comes first, the share of correct tokens of
trained and held-out replies together; the loss decides if recall is unknown, or not lower but not enough higher.
Much that is new cannot make up for what would be missed: `whole` tells replies that come out right today and would not.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from lars_agent.records import record

Loss = Annotated[float, BeforeValidator(lambda loss: math.nan if loss is None else loss)]  # JSON has no NaN


@record("scores")
class Scores:
    """Scores of one adapter, or of the base model alone. Losses are in nats per token; lower is better.

    Attributes:
        reply_loss: on the held-out replies.
        text_loss: on general text, which the adapter must not make less likely.
        recall: share of the tokens of held-out, newest and some earlier trained replies whose probability is above 1/2,
            so that greedy decoding chooses them; higher is better. None in records made before it was measured.
        whole: of each trained one of these replies, in the same order for every adapter of a job, whether all its
            tokens are: "1", or "0". Empty in records made before it was measured.
    """

    reply_loss: Loss
    text_loss: Loss
    recall: float | None = None
    whole: str = ""

    @property
    def usable(self) -> bool:
        """True if both losses are finite and not negative."""
        return all(math.isfinite(loss) and loss >= 0.0 for loss in (self.reply_loss, self.text_loss))


@record("gate")
class GatePolicy:
    """Thresholds for a candidate; a section of the settings."""

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
        le=1000,
        description="Largest relative rise of the loss on general text, against the adapter in use and against the "
        "base model, so that many small rises cannot add up.",
    )
    max_lost: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the replies which come out right with the adapter in use, word for word, that "
        "may not with the candidate; one reply always may.",
    )
    rollback_chance: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="After promotion: go back to the parent once the ratings of the version in use are so much worse "
        "than its parent's that chance gives them this seldom; 0 is never.",
    )


@record("verdict")
class Verdict:
    """Decision of the gate with its reasons: against a rejected candidate, or for an accepted one."""

    accepted: bool
    reasons: tuple[str, ...]
    candidate: Scores
    incumbent: Scores
    base: Scores | None = None


def decide(candidate: Scores, incumbent: Scores, policy: GatePolicy, base: Scores | None = None) -> Verdict:
    """Return the verdict: accepted if the replies improved enough and general text did not suffer too much.

    A candidate without usable losses, or without any gain, is rejected under every policy. If the incumbent has no
    usable losses, the base model is the reference; without it, a usable candidate is accepted.
    """
    if not candidate.usable:
        losses = f"replies {candidate.reply_loss}, general text {candidate.text_loss}"
        reason = f"The candidate's losses are not usable numbers ({losses}): its training diverged."
        return Verdict(False, (reason,), candidate, incumbent, base)
    references = [(incumbent, "the adapter in use")] if incumbent.usable else []
    if base is not None and base.usable and base is not incumbent:
        references.append((base, "the base model"))
    checks = [_text_rise(candidate, reference, policy, name) for reference, name in references]
    if references:
        checks.insert(0, _reply_gain(candidate, references[0][0], policy))
        checks += _lost_replies(candidate, references[0][0], policy)
    else:
        checks = [(True, "The adapter in use has no usable scores, so there was nothing to compare with.")]
    accepted = all(passed for passed, _ in checks)
    reasons = tuple(reason for passed, reason in checks if passed == accepted)
    return Verdict(accepted, reasons, candidate, incumbent, base)


def _reply_gain(candidate: Scores, reference: Scores, policy: GatePolicy) -> tuple[bool, str]:
    if candidate.recall is None or reference.recall is None:
        return _loss_gain(candidate, reference, policy)
    passed, reason = _recall_gain(candidate.recall, reference.recall, policy)
    if passed or candidate.recall < reference.recall:
        return passed, reason
    passed, loss_reason = _loss_gain(candidate, reference, policy)
    return passed, f"{reason} {loss_reason}"


def _recall_gain(candidate: float, reference: float, policy: GatePolicy) -> tuple[bool, str]:
    most_wrong = (1.0 - reference) * (1.0 - policy.min_reply_gain)
    passed = candidate > reference and 1.0 - candidate <= most_wrong
    measured = f"{candidate:.2%} come out right now, {reference:.2%} before"
    required = f"more than before, and at least {1.0 - most_wrong:.2%}, is required"
    return passed, f"Of the tokens of your corrections and held-out replies {measured}; {required}."


def _lost_replies(candidate: Scores, reference: Scores, policy: GatePolicy) -> list[tuple[bool, str]]:
    """Return the check of whole replies; none where they are not known of both."""
    if not candidate.whole or len(candidate.whole) != len(reference.whole):
        return []
    pairs = list(zip(candidate.whole, reference.whole, strict=True))
    now, before, lost = candidate.whole.count("1"), reference.whole.count("1"), pairs.count(("0", "1"))
    allowed = max(1, math.floor(policy.max_lost * before))
    measured = f"Of {len(pairs)} corrections {now} come out right word for word now, {before} before"
    return [(lost <= allowed, f"{measured}; {lost} would be lost, at most {allowed} may be.")]


def _loss_gain(candidate: Scores, reference: Scores, policy: GatePolicy) -> tuple[bool, str]:
    rise = _relative_rise(candidate.reply_loss, reference.reply_loss)
    measured = f"{_change(rise)} ({reference.reply_loss:.4f} before, {candidate.reply_loss:.4f} now, in nats per token)"
    passed = candidate.reply_loss < reference.reply_loss and -rise >= policy.min_reply_gain
    required = f"a fall of at least {policy.min_reply_gain:.2%} is required"
    return passed, f"The loss on your held-out replies {measured}; {required}."


def _text_rise(candidate: Scores, reference: Scores, policy: GatePolicy, name: str) -> tuple[bool, str]:
    rise = _relative_rise(candidate.text_loss, reference.text_loss)
    measured = f"{_change(rise)} against {name} ({reference.text_loss:.4f} there, {candidate.text_loss:.4f} now)"
    allowed = f"a rise of at most {policy.max_text_rise:.2%} is allowed"
    return rise <= policy.max_text_rise, f"The loss on general text {measured}; {allowed}."


def _relative_rise(loss: float, reference_loss: float) -> float:
    if reference_loss > 0.0:
        return (loss - reference_loss) / reference_loss
    return 0.0 if loss == 0.0 else math.inf


def _change(rise: float) -> str:
    if rise == 0.0:
        return "did not change"
    return f"fell by {-rise:.2%}" if rise < 0.0 else f"rose by {rise:.2%}"
