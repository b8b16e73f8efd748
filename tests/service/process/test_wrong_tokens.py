"""Delays for wrong tokens; the clock and the sleep are the test's."""

from __future__ import annotations

import asyncio

from service.process.wrong_tokens import WrongTokens


async def answer_times(wrong_tokens: WrongTokens, slept: list[float], host: str, count: int) -> list[float]:
    slept.clear()
    for _ in range(count):
        assert await wrong_tokens.hold(host)
    return [0.0] * (count - len(slept)) + slept


def test_wrong_tokens_wait_longer_and_longer_by_address_and_are_forgotten():
    now, slept = [0.0], list[float]()

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    async def story() -> None:
        wrong = WrongTokens(lambda: now[0], sleep)
        delays = await answer_times(wrong, slept, "10.0.0.1", 12)
        assert delays == [0.0] * 5 + [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
        assert wrong.retry_after_s("10.0.0.1") == 5
        assert await answer_times(wrong, slept, "10.0.0.2", 5) == [0.0] * 5
        assert await answer_times(wrong, slept, "2001:db8::1", 5) == [0.0] * 5
        assert await answer_times(wrong, slept, "2001:db8::2:3", 1) == [0.25]  # of the same network
        assert await answer_times(wrong, slept, "::ffff:10.0.0.2", 1) == [0.25]
        now[0] += 901
        assert await answer_times(wrong, slept, "10.0.0.1", 1) == [0.0]
        for number in range(5000):
            await wrong.hold(f"172.16.{number // 256}.{number % 256}")
        assert len(wrong) == 4096

    asyncio.run(story())


def test_answers_that_wait_are_limited_for_each_address():
    async def story() -> tuple[list[bool], list[bool]]:
        go = asyncio.Event()
        wrong = WrongTokens(sleep=lambda _: go.wait())
        for _ in range(5):
            assert await wrong.hold("10.0.0.1")
        tasks = [asyncio.create_task(wrong.hold("10.0.0.1")) for _ in range(12)]
        await asyncio.sleep(0)
        refused = [task.result() for task in tasks if task.done()]
        assert await wrong.hold("10.0.0.9")
        go.set()
        all_of_them = list(await asyncio.gather(*tasks))
        assert await wrong.hold("10.0.0.1")  # none waits any more
        return refused, all_of_them

    assert asyncio.run(story()) == ([False] * 4, [True] * 8 + [False] * 4)
