"""So many at once, the others in order, and no slot is ever lost."""

import asyncio

import pytest

from tasks.vision_language.gate.refusal import Refusal
from tasks.vision_language.gate.request_slots import RequestSlots, limit_for


async def hold(slots: RequestSlots, wait_s: float, log: list[int], number: int, over: asyncio.Event) -> None:
    async with slots.turn(wait_s):
        log.append(number)
        await over.wait()


def test_one_more_is_refused_at_once():
    async def main():
        slots = RequestSlots(2)
        async with slots.turn(0), slots.turn(0):
            with pytest.raises(Refusal, match="2 requests are being answered, at most 2") as caught:
                async with slots.turn(0):
                    pass
        assert caught.value.status == 429
        assert caught.value.headers()["Retry-After"].isdigit()
        assert slots.taken == 0

    asyncio.run(main())


def test_those_who_wait_come_in_order_and_give_up_in_time():
    async def main():
        slots, log, over = RequestSlots(1), [], asyncio.Event()
        first = asyncio.create_task(hold(slots, 0, log, 0, over))
        await asyncio.sleep(0)
        rest = [asyncio.create_task(hold(slots, 5, log, n, over)) for n in (1, 2, 3)]
        with pytest.raises(Refusal):
            async with slots.turn(0.05):
                pass
        rest[1].cancel()
        over.set()
        await asyncio.gather(first, *rest, return_exceptions=True)
        assert log == [0, 1, 3]
        assert (slots.taken, slots.waiting) == (0, 0)

    asyncio.run(main())


def test_who_is_called_and_cancelled_in_the_same_moment_keeps_no_slot():
    async def main():
        slots, log, over = RequestSlots(1), [], asyncio.Event()
        over.set()
        async with slots.turn(0):
            waits = asyncio.create_task(hold(slots, 5, log, 1, over))
            await asyncio.sleep(0.01)
        waits.cancel()  # after it was called, before it could run
        await asyncio.gather(waits, return_exceptions=True)
        assert slots.taken == 0
        assert log == []

    asyncio.run(main())


def test_a_larger_limit_lets_those_in_who_wait_and_a_smaller_one_sends_nobody_away():
    async def main():
        slots, log, over = RequestSlots(1), [], asyncio.Event()
        jobs = [asyncio.create_task(hold(slots, 5, log, n, over)) for n in range(3)]
        await asyncio.sleep(0.01)
        assert log == [0]
        slots.limit = 3
        await asyncio.sleep(0.01)
        assert log == [0, 1, 2]
        slots.limit = 1
        with pytest.raises(Refusal):
            async with slots.turn(0):
                pass
        over.set()
        await asyncio.gather(*jobs)
        assert slots.taken == 0

    asyncio.run(main())


@pytest.mark.parametrize(("mib", "limit"), [(None, 3), (8000, 3), (15_900, 5), (24_000, 5), (32_000, 8), (140_000, 8)])
def test_the_limit_follows_the_memory(mib, limit):
    assert limit_for(mib) == limit
