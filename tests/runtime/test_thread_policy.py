import pytest

from lars_agent.processor import core_count
from lars_agent.runtime.thread_policy import ThreadPolicy

SECONDS = {1: 3.0, 2: 1.0, 4: 1.5}  # of a step, as on a board whose memory two of four cores use up


def decode(policy, steps, *, size=1, seconds=SECONDS):
    """The thread counts of so many steps, each of which takes as long as `seconds` says."""
    counts = []
    for _ in range(steps):
        counts.append(policy.for_step(size))
        policy.record(size, counts[-1], seconds[counts[-1]])
    return counts


def test_a_prompt_takes_every_free_core_and_decoding_the_fastest_number_once_all_were_timed():
    policy = ThreadPolicy(4, lambda: 4)
    assert set(decode(policy, 30)[:18]) == {1, 2, 4}
    assert set(decode(policy, 30)) == {2}
    assert policy.for_prompt() == 4


@pytest.mark.parametrize("free", [1, 2, 3])
def test_cores_that_others_have_are_left_to_them_and_taken_again(free):
    left = [4]
    policy = ThreadPolicy(4, lambda: left[0])
    decode(policy, 30)
    left[0] = free
    assert policy.for_prompt() == free
    assert set(decode(policy, 5)) == {min(free, 2)}
    left[0] = 4
    assert set(decode(policy, 5)) == {2}


def test_nothing_is_timed_while_others_are_busy():
    left = [1]
    policy = ThreadPolicy(4, lambda: left[0])
    assert set(decode(policy, 30, seconds={1: 9.0})) == {1}
    left[0] = 4
    assert set(decode(policy, 18)) == {1, 2, 4}


def test_what_was_timed_beside_a_busy_program_does_not_count():
    left = [2]
    policy = ThreadPolicy(2, lambda: left[0])
    assert decode(policy, 6, seconds={2: 2.0}) == [2] * 6  # then one thread's turn comes
    left[0] = 1
    assert decode(policy, 10, seconds={1: 9.0}) == [1] * 10
    left[0] = 2
    assert decode(policy, 8, seconds={1: 1.0}) == [1] * 8


def test_each_size_of_a_batch_has_its_own_fastest_number():
    policy = ThreadPolicy(4, lambda: 4)
    decode(policy, 30)
    decode(policy, 30, size=3, seconds={1: 9.0, 2: 5.0, 4: 2.0})
    assert set(decode(policy, 3)) == {2}
    assert set(decode(policy, 3, size=3, seconds={4: 2.0})) == {4}


def test_one_slow_step_decides_nothing():
    policy = ThreadPolicy(2, lambda: 2)
    for number in range(12):
        count = policy.for_step(1)
        policy.record(1, count, 50.0 if number == 3 else SECONDS[count])
    assert policy.for_step(1) == 2


@pytest.mark.parametrize(("most", "counts"), [(1, {1}), (3, {1, 2, 3}), (0, None)])
def test_no_more_threads_than_allowed_and_every_core_by_default(most, counts):
    policy = ThreadPolicy(most, lambda: 64)
    assert policy.for_prompt() == (most or core_count())
    if counts:
        assert set(decode(policy, 40, seconds=dict.fromkeys(range(65), 1.0))) == counts
