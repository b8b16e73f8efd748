from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lars_agent.errors import ConfigError
from lars_agent.records import from_json, to_json
from lars_agent.training.gate import GatePolicy, Scores, Verdict, decide

INCUMBENT = Scores(reply_loss=2.0, text_loss=3.0)
POLICY = GatePolicy(min_reply_gain=0.02, max_text_rise=0.03)

recall = st.none() | st.floats(0.0, 1.0)
any_scores = st.builds(Scores, st.floats(), st.floats(), recall)
loss = st.floats(min_value=1e-6, max_value=50.0)
scores = st.builds(Scores, loss, loss)
recalling_scores = st.builds(Scores, loss, loss, recall)
policies = st.builds(GatePolicy, st.floats(0.0, 0.5), st.floats(0.0, 0.5))


def test_a_better_candidate_is_accepted_with_reasons() -> None:
    verdict = decide(Scores(1.5, 3.01), INCUMBENT, POLICY)
    assert verdict.accepted
    assert verdict.reasons == (
        "The loss on your held-out replies fell by 25.00% (2.0000 before, 1.5000 now, in nats per token); "
        "a fall of at least 2.00% is required.",
        "The loss on general text rose by 0.33% against the adapter in use (3.0000 there, 3.0100 now); "
        "a rise of at most 3.00% is allowed.",
    )


def test_too_small_a_gain_is_rejected_and_only_that_is_said() -> None:
    verdict = decide(Scores(1.99, 3.0), INCUMBENT, POLICY)
    assert not verdict.accepted
    (reason,) = verdict.reasons
    assert "fell by 0.50%" in reason
    assert "at least 2.00%" in reason


def test_forgetting_general_text_is_rejected_however_good_the_replies() -> None:
    verdict = decide(Scores(0.1, 3.2), INCUMBENT, POLICY)
    assert not verdict.accepted
    assert "general text rose by 6.67%" in verdict.reasons[0]


def test_both_faults_are_named() -> None:
    assert len(decide(Scores(2.5, 9.0), INCUMBENT, POLICY).reasons) == 2


def test_a_candidate_exactly_at_both_limits_is_accepted() -> None:
    policy = GatePolicy(min_reply_gain=0.25, max_text_rise=0.5)
    assert decide(Scores(1.5, 4.5), INCUMBENT, policy).accepted


def test_a_candidate_that_gained_nothing_is_rejected_even_if_no_gain_is_asked() -> None:
    assert not decide(INCUMBENT, INCUMBENT, GatePolicy(min_reply_gain=0.0)).accepted


def test_candidate_that_learned_what_it_was_taught_is_accepted_though_the_loss_on_an_untaught_fact_rose() -> None:
    verdict = decide(Scores(2.5, 3.0, recall=0.95), Scores(2.0, 3.0, recall=0.4), POLICY)
    assert verdict.accepted
    assert verdict.reasons[0] == (
        "Of the tokens of your corrections and held-out replies 95.00% come out right now, 40.00% before; "
        "more than before, and at least 41.20%, is required."
    )


def test_candidate_that_recalls_less_is_rejected_however_low_its_held_out_loss() -> None:
    verdict = decide(Scores(0.1, 3.0, recall=0.4), Scores(2.0, 3.0, recall=0.5), POLICY)
    assert not verdict.accepted
    (reason,) = verdict.reasons
    assert "40.00% come out right now, 50.00% before; more than before, and at least 51.00%, is required" in reason


@pytest.mark.parametrize("recalled", [0.0, 0.5, 1.0])
def test_held_out_loss_decides_between_two_that_recall_the_same(recalled: float) -> None:
    for reply_loss, accepted in ((1.5, True), (1.99, False)):
        verdict = decide(Scores(reply_loss, 3.0, recalled), Scores(2.0, 3.0, recalled), POLICY)
        assert verdict.accepted is accepted
        assert f"{recalled:.2%} come out right now" in verdict.reasons[0]
        assert "The loss on your held-out replies fell" in verdict.reasons[0]


@pytest.mark.parametrize("recalls", [(None, 0.1), (0.9, None), (None, None)])
def test_held_out_loss_decides_where_a_recall_is_unknown(recalls: tuple[float | None, float | None]) -> None:
    candidate, incumbent = recalls
    for reply_loss, accepted in ((1.5, True), (1.99, False)):
        verdict = decide(Scores(reply_loss, 3.0, candidate), Scores(2.0, 3.0, incumbent), POLICY)
        assert verdict.accepted is accepted
        assert "The loss on your held-out replies fell" in verdict.reasons[0]


def test_losing_what_came_out_right_is_rejected_however_much_is_new() -> None:
    before = Scores(2.0, 3.0, 0.5, "1" * 20 + "0" * 20)
    for lost, accepted in ((0, True), (2, True), (3, False)):
        verdict = decide(Scores(1.0, 3.0, 0.9, "0" * lost + "1" * (40 - lost)), before, POLICY)
        assert verdict.accepted is accepted
        words = f"Of 40 corrections {40 - lost} come out right word for word now, 20 before"
        assert f"{words}; {lost} would be lost, at most 2 may be." in verdict.reasons
    few = Scores(2.0, 3.0, 0.5, "11000")
    assert decide(Scores(1.0, 3.0, 0.9, "01111"), few, POLICY).accepted  # one may always be
    assert not decide(Scores(1.0, 3.0, 0.9, "00111"), few, POLICY).accepted
    assert decide(Scores(1.0, 3.0, 0.9, "0"), Scores(2.0, 3.0, 0.5, ""), POLICY).accepted  # unknown


def test_scores_recorded_before_recall_was_measured_are_read() -> None:
    assert from_json(Scores, {"reply_loss": 2.0, "text_loss": None}).recall is None


def test_small_rises_cannot_add_up_over_the_nights() -> None:
    base, incumbent = Scores(4.0, 3.0), Scores(1.0, 3.0)
    accepted = 0
    for _ in range(20):
        candidate = Scores(incumbent.reply_loss * 0.9, incumbent.text_loss * 1.02)
        if decide(candidate, incumbent, POLICY, base).accepted:
            incumbent, accepted = candidate, accepted + 1
    assert accepted == 1
    verdict = decide(Scores(0.1, 3.1), Scores(1.0, 3.05), POLICY, base)
    assert not verdict.accepted
    assert "against the base model" in verdict.reasons[0]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, -0.1])
def test_a_candidate_without_usable_losses_is_rejected(broken: float) -> None:
    for candidate in (Scores(broken, 3.0), Scores(1.0, broken)):
        verdict = decide(candidate, INCUMBENT, POLICY)
        assert not verdict.accepted
        assert "not usable" in verdict.reasons[0]


def test_a_broken_incumbent_is_replaced_by_what_beats_the_base_model() -> None:
    broken, base = Scores(math.nan, math.inf), Scores(2.0, 3.0)
    assert decide(Scores(1.5, 3.0), broken, POLICY, base).accepted
    assert not decide(Scores(2.1, 3.0), broken, POLICY, base).accepted
    assert not decide(Scores(1.5, 3.5), broken, POLICY, base).accepted
    assert decide(Scores(1.5, 3.5), broken, POLICY).accepted


def test_the_first_adapter_is_judged_against_the_base_model_once() -> None:
    for base in (INCUMBENT, replace(INCUMBENT)):  # as it is read from a job's record
        verdict = decide(Scores(1.5, 3.0), INCUMBENT, POLICY, base)
        assert verdict.accepted
        assert len(verdict.reasons) == 2


def test_a_perfect_incumbent_cannot_be_bettered() -> None:
    assert not decide(Scores(0.0, 0.0), Scores(0.0, 0.0), POLICY).accepted
    assert not decide(Scores(0.0, 1.0), Scores(1.0, 0.0), POLICY).accepted


@given(any_scores, any_scores, policies, st.none() | any_scores)
def test_every_verdict_has_sentences_and_survives_json(
    candidate: Scores, incumbent: Scores, policy: GatePolicy, base: Scores | None
) -> None:
    verdict = decide(candidate, incumbent, policy, base)
    assert verdict.reasons
    assert all(reason.endswith(".") and reason[0].isupper() for reason in verdict.reasons)
    text = to_json(verdict)
    again = from_json(Verdict, text)
    assert to_json(again) == text
    assert (again.accepted, again.reasons) == (verdict.accepted, verdict.reasons)


@given(scores, scores, policies, scores)
def test_what_is_accepted_kept_every_promise(
    candidate: Scores, incumbent: Scores, policy: GatePolicy, base: Scores
) -> None:
    if decide(candidate, incumbent, policy, base).accepted:
        slack = 1 + 1e-9
        assert candidate.reply_loss < incumbent.reply_loss
        assert candidate.reply_loss <= incumbent.reply_loss * (1 - policy.min_reply_gain) * slack
        for yardstick in (incumbent, base):
            assert candidate.text_loss <= yardstick.text_loss * (1 + policy.max_text_rise) * slack


@given(recalling_scores, recalling_scores, policies, st.none() | recalling_scores, *[st.floats(0.0, 1.0)] * 3)
def test_a_still_better_candidate_is_never_rejected(
    candidate: Scores,
    incumbent: Scores,
    policy: GatePolicy,
    base: Scores | None,
    share: float,
    other: float,
    recalled: float,
) -> None:
    better_recall = None if candidate.recall is None else max(candidate.recall, recalled)
    better = Scores(candidate.reply_loss * share, candidate.text_loss * other, better_recall)
    if decide(candidate, incumbent, policy, base).accepted:
        assert decide(better, incumbent, policy, base).accepted


@pytest.mark.parametrize("gain", [-0.1, 1.0, math.nan])
def test_a_gain_that_cannot_be_asked_is_refused(gain: float) -> None:
    with pytest.raises(ConfigError, match=r"gate\.min_reply_gain"):
        GatePolicy(min_reply_gain=gain)


@pytest.mark.parametrize("rise", [-0.1, math.inf, math.nan])
def test_a_rise_that_cannot_be_allowed_is_refused(rise: float) -> None:
    with pytest.raises(ConfigError, match=r"gate\.max_text_rise"):
        GatePolicy(max_text_rise=rise)


@pytest.mark.parametrize("record", [{}, {"accepted": True, "reasons": "no list", "candidate": {}, "incumbent": {}}])
def test_a_record_that_is_no_verdict_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="verdict"):
        from_json(Verdict, record)


def test_a_gain_that_may_be_chance_is_none_and_one_without_doubt_or_of_unknown_doubt_is() -> None:
    before = Scores(2.0, 3.0, recall=0.5)
    for doubt, accepted in ((None, True), (0.0, True), (0.2, True), (0.21, False)):
        verdict = decide(Scores(2.5, 3.0, 0.6, recall_doubt=doubt, loss_doubt=1.0), before, POLICY)
        assert verdict.accepted is accepted
        same = Scores(1.0, 3.0, 0.5, recall_doubt=1.0, loss_doubt=doubt)
        assert decide(same, before, POLICY).accepted is accepted
        assert any("no gain is 21%; at most 20% is allowed." in reason for reason in verdict.reasons) is not accepted


@pytest.mark.parametrize(("count", "lost", "accepted"), [(1, 1, True), (2, 2, False), (20, 4, True), (20, 5, False)])
def test_a_kind_of_reply_may_not_be_lost_where_all_together_may(count: int, lost: int, accepted: bool) -> None:
    kinds = "f" * 60 + "c" * count
    before = Scores(2.0, 3.0, 0.5, "1" * len(kinds), kinds)
    after = Scores(1.0, 3.0, 0.9, "1" * 60 + "0" * lost + "1" * (count - lost), kinds)
    verdict = decide(after, before, GatePolicy(max_lost=0.1))
    assert verdict.accepted is accepted
    words = f"Of {count} other corrections that came out right before, {lost} would be lost; chance explains "
    assert any(reason.startswith(words) for reason in verdict.reasons)
    assert decide(replace(after, kinds="c" * len(kinds)), before, GatePolicy(max_lost=0.1)).accepted  # of one kind


def test_replies_to_general_questions_may_neither_repeat_themselves_nor_be_what_was_taught_to_others() -> None:
    base = Scores(2.0, 3.0, 0.5, looping="10000000")
    better = Scores(1.0, 3.0, 0.9, looping="11000000", spilled="11000000")
    assert decide(better, base, POLICY, base).accepted
    (reason,) = decide(replace(better, looping="11100000"), base, POLICY, base).reasons
    assert reason == ("Of 8 replies to general questions 3 repeat themselves, 1 by the base model; at most 2 may.")
    (reason,) = decide(replace(better, spilled="11010000"), base, POLICY, base).reasons
    assert reason == "Of 8 general questions 3 get a reply that was taught to another prompt; at most 2 may."


def test_one_new_correction_passes_and_so_does_a_night_that_only_removes() -> None:
    kinds = "f" * 40 + "c" * 20
    before = Scores(2.0, 3.0, 0.99, "1" * 59 + "0", kinds)
    new = Scores(2.0, 3.0, 0.995, "1" * 60, kinds, recall_doubt=0.01, loss_doubt=0.5, looping="0" * 8, spilled="0" * 8)
    assert decide(new, before, GatePolicy(), Scores(4.0, 3.0, 0.3, "0" * 60, kinds, looping="0" * 8)).accepted
    base = Scores(4.0, 3.0, 0.3, "0" * 58, kinds[:58], looping="0" * 8)
    fewer = replace(new, whole="1" * 58, kinds=kinds[:58])
    assert decide(fewer, base, GatePolicy(), base).accepted  # what knew the removed rows no longer serves
