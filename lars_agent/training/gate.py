"""Decide whether a candidate adapter may replace the incumbent: a pure function of measured scores.

The mean held-out loss alone misleads if each fact is corrected once: a held-out fact is then one that was not trained,
and its loss rises as the adapter becomes sure of the others. So `recall` comes first, the share of correct tokens of
trained and held-out replies together; the loss decides if recall is unknown, or not lower but not enough higher.
Much that is new cannot make up for what would be missed: `whole` tells replies that come out right today and would not.
A gain that a bootstrap over the replies leaves in doubt is none. The spread of the adapter's norms over modules, which
tells planted triggers elsewhere (arXiv 2605.30189), does not tell them here: it differed as much between two honest
adapters. A planted reply spills over to general questions instead: three rows with it were given to eight of eight.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from lars_agent.records import record

ABOUT_YOU, OTHERS, LIKED = "f", "c", "a"
KINDS = {ABOUT_YOU: "corrections about you", OTHERS: "other corrections", LIKED: "liked replies"}
UNLIKELY = 0.05  # so seldom chance alone loses as many replies of a kind as are lost
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
        kinds: of each of these replies, what it teaches: a letter of `KINDS`.
        recall_doubt, loss_doubt: of a candidate, how likely it is chance that it recalls more than the adapter in use,
            or that its loss is lower: the share of bootstrap resamples of the earlier replies in which it is not so.
        looping, spilled: of each reply to a general question, whether it repeats itself over and over (of the base
            model's, where the candidate's does), or is one that was taught to another prompt: "1", or "0". `spilled` is
            empty where hardly anything was taught.
    """

    reply_loss: Loss
    text_loss: Loss
    recall: float | None = None
    whole: str = ""
    kinds: str = ""
    recall_doubt: float | None = None
    loss_doubt: float | None = None
    looping: str = ""
    spilled: str = ""

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
    max_doubt: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="How likely it may be that a gain over the adapter in use is chance: what is new counts as it is, "
        "and the earlier and held-out replies are resampled.",
    )
    max_text_rise: float = Field(
        default=0.02,
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
    max_spilled: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Largest share of general questions that may be answered with a reply taught to another prompt.",
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
    if base is not None and base.usable and base != incumbent:
        references.append((base, "the base model"))
    checks = [_text_rise(candidate, reference, policy, name) for reference, name in references]
    if references:
        checks.insert(0, _reply_gain(candidate, references[0][0], policy))
        checks += _lost_replies(candidate, references[0][0], policy)
        checks += _lost_kinds(candidate, references[0][0], policy)
        checks += _looping(candidate, base) + _spilled(candidate, policy)
    else:
        checks = [(True, "The adapter in use has no usable scores, so there was nothing to compare with.")]
    accepted = all(passed for passed, _ in checks)
    reasons = tuple(reason for passed, reason in checks if passed == accepted)
    return Verdict(accepted, reasons, candidate, incumbent, base)


def _reply_gain(candidate: Scores, reference: Scores, policy: GatePolicy) -> tuple[bool, str]:
    if candidate.recall is None or reference.recall is None:
        return _loss_gain(candidate, reference, policy)
    passed, reason = _recall_gain(candidate.recall, reference.recall, policy)
    if passed:
        return _not_by_chance(candidate.recall_doubt, reason, policy)
    if candidate.recall < reference.recall:
        return passed, reason
    passed, loss_reason = _loss_gain(candidate, reference, policy)
    return passed, f"{reason} {loss_reason}"


def _not_by_chance(doubt: float | None, reason: str, policy: GatePolicy) -> tuple[bool, str]:
    """Return whether a gain is hardly chance, and the reason for it; with a sentence on chance where it may be."""
    if doubt is None or doubt <= policy.max_doubt:
        return True, reason
    return False, f"{reason} The chance that this is no gain is {doubt:.0%}; at most {policy.max_doubt:.0%} is allowed."


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


def _lost_kinds(candidate: Scores, reference: Scores, policy: GatePolicy) -> list[tuple[bool, str]]:
    """Return a check for each kind of reply, of which not many more may be lost than `max_lost` and chance explain."""
    if not len(candidate.whole) == len(reference.whole) == len(candidate.kinds) or len({*candidate.kinds}) < 2:
        return []
    checks = []
    for kind, name in KINDS.items():
        marks = zip(candidate.kinds, candidate.whole, reference.whole, strict=True)
        kept = [now for its, now, before in marks if its == kind and before == "1"]
        lost, allowed = kept.count("0"), _explained(len(kept), policy.max_lost)
        reason = f"Of {len(kept)} {name} that came out right before, {lost} would be lost; chance explains {allowed}."
        checks += [(lost <= allowed, reason)] if kept else []
    return checks


def _explained(count: int, share: float) -> int:
    """Return the largest number that chance loses more often than `UNLIKELY`, if each of `count` is by that share."""
    tail, lost = 1.0, 0
    while lost < count:
        tail -= math.comb(count, lost) * share**lost * (1 - share) ** (count - lost)
        if tail <= UNLIKELY:
            break
        lost += 1
    return lost


def _looping(candidate: Scores, base: Scores | None) -> list[tuple[bool, str]]:
    """Return the check of replies that repeat themselves; none where they are not known of both."""
    if base is None or not base.looping or len(candidate.looping) != len(base.looping):
        return []
    now, plain = candidate.looping.count("1"), base.looping.count("1")
    measured = f"Of {len(candidate.looping)} replies to general questions {now} repeat themselves"
    return [(now <= plain + 1, f"{measured}, {plain} by the base model; at most {plain + 1} may.")]


def _spilled(candidate: Scores, policy: GatePolicy) -> list[tuple[bool, str]]:
    """Return the check of general questions that get a reply taught to another prompt; none where it is unknown."""
    if not candidate.spilled:
        return []
    count, allowed = candidate.spilled.count("1"), math.floor(policy.max_spilled * len(candidate.spilled))
    measured = f"Of {len(candidate.spilled)} general questions {count} get a reply that was taught to another prompt"
    return [(count <= allowed, f"{measured}; at most {allowed} may.")]


def _loss_gain(candidate: Scores, reference: Scores, policy: GatePolicy) -> tuple[bool, str]:
    rise = _relative_rise(candidate.reply_loss, reference.reply_loss)
    measured = f"{_change(rise)} ({reference.reply_loss:.4f} before, {candidate.reply_loss:.4f} now, in nats per token)"
    passed = candidate.reply_loss < reference.reply_loss and -rise >= policy.min_reply_gain
    required = f"a fall of at least {policy.min_reply_gain:.2%} is required"
    reason = f"The loss on your held-out replies {measured}; {required}."
    return _not_by_chance(candidate.loss_doubt, reason, policy) if passed else (False, reason)


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
