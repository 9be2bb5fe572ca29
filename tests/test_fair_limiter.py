"""Places that principals share: whose turn it is, and how much one may hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from threadkeep.auth.presence import Presence
from threadkeep.base.fair_limiter import ANONYMOUS, BACKGROUND, FairLimiter, Place, quarter
from threadkeep.base.problems import QueueFull


class Queue:
    """Waiters of a limiter, and who got a place in which order."""

    def __init__(self, limiter: FairLimiter) -> None:
        self._limiter = limiter
        self.served: list[str] = []
        self.places: list[Place] = []
        self.refused: list[str] = []

    async def wait(self, holder: str) -> None:
        try:
            place = await self._limiter.acquire(holder)
        except QueueFull:
            self.refused.append(holder)
            return
        self.served.append(holder)
        self.places.append(place)

    async def release(self) -> None:
        """Release the oldest place, and let whoever gets it say so."""
        self.places.pop(0).release()
        await _settled()


async def _settled() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def _queue(limiter: FairLimiter, *holders: str) -> AsyncIterator[Queue]:
    """Waiters that came in the order of `holders`."""
    queue = Queue(limiter)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for holder in holders:
                tasks.start_soon(queue.wait, holder)
                await _settled()
            yield queue
            tasks.cancel_scope.cancel()


async def test_waiters_are_served_round_robin_and_in_order_within_one_principal() -> None:
    limiter = FairLimiter(1)

    async with _queue(limiter, "bad", "bad", "bad", "bad", "good", "other", "good") as queue:
        for _ in range(6):
            await queue.release()

    assert queue.served == ["bad", "bad", "good", "other", "bad", "good", "bad"]


async def test_a_principal_alone_may_take_everything() -> None:
    limiter = FairLimiter(4, reserve=1, is_alone=lambda holder: holder == "alone")

    async with _queue(limiter, *["alone"] * 5) as queue:
        assert (limiter.taken, limiter.waiting, queue.served) == (4, 1, ["alone"] * 4)


@pytest.mark.parametrize(
    ("total", "reserve", "most"), [(12, 3, 9), (8, 2, 6), (3, 1, 2), (2, 1, 1), (1, 0, 1), (4, 0, 4)]
)
async def test_a_principal_leaves_the_reserve_free_for_others(total: int, reserve: int, most: int) -> None:
    limiter = FairLimiter(total, reserve=reserve)

    async with _queue(limiter, *["bad"] * (total + 1)) as queue:
        assert len(queue.served) == most
        free = total - most
        assert [limiter.may_take("good") for _ in range(free)] == [True] * free


async def test_newcomers_find_places_while_long_holders_stay() -> None:
    limiter = FairLimiter(12, reserve=3)
    held: dict[str, int] = {}

    for holder in ("first", "second", "third"):
        while limiter.may_take(holder):
            await limiter.acquire(holder)
            held[holder] = held.get(holder, 0) + 1

    assert held == {"first": 9, "second": 2, "third": 1}


async def test_nobody_is_held_back_without_authentication() -> None:
    limiter = FairLimiter(4, reserve=1)

    async with _queue(limiter, *[ANONYMOUS] * 5) as queue:
        assert len(queue.served) == 4


async def test_a_full_queue_refuses_the_newest_waiter_of_the_principal_with_most() -> None:
    limiter = FairLimiter(1, max_waiting=3)

    async with _queue(limiter, "bad", "bad", "bad", "bad", "good") as queue:
        assert queue.refused == ["bad"]
        with pytest.raises(QueueFull):
            limiter.refuse_if_full("bad")
        await queue.release()
        await queue.release()

    assert queue.served == ["bad", "bad", "good"]


async def test_a_waiter_that_is_cancelled_leaves_the_queue() -> None:
    limiter = FairLimiter(1)
    place = await limiter.acquire("good")

    with anyio.move_on_after(0.01):
        await limiter.acquire("good")

    assert limiter.waiting == 0
    place.release()
    place.release()
    assert limiter.taken == 0
    assert (await limiter.acquire("good")).holder == "good"


async def test_a_waiter_that_is_cancelled_as_it_gets_a_place_passes_it_on() -> None:
    limiter = FairLimiter(1)
    place = await limiter.acquire("good")
    leaving = asyncio.get_running_loop().create_task(limiter.acquire("good"))

    async with _queue(limiter, "good") as queue:
        place.release()
        leaving.cancel()
        await _settled()
        assert (queue.served, limiter.taken, limiter.waiting) == (["good"], 1, 0)

    assert leaving.cancelled()


async def test_background_work_takes_its_turn_and_is_then_counted_as_its_principals() -> None:
    limiter = FairLimiter(4, reserve=1)

    async with _queue(limiter, "bad", "bad", BACKGROUND) as queue:
        assert limiter.held_back() == []
        queue.places[2].assign("bad")
        queue.places.append(await limiter.acquire(BACKGROUND))
        assert limiter.held_back() == ["bad"]
        queue.places[3].release()
        queue.places[2].release()
        assert limiter.held_back() == []

    assert limiter.waiting == 0


@pytest.mark.parametrize(("total", "reserved"), [(1, 0), (2, 1), (3, 1), (8, 2), (12, 3), (100, 25)])
def test_the_usual_reserve_is_a_quarter(total: int, reserved: int) -> None:
    assert quarter(total) == reserved


def test_a_principal_is_alone_until_another_asks() -> None:
    presence = Presence()
    presence.saw("one")
    assert presence.is_alone("one")
    assert not presence.is_alone("two")

    presence.saw("two")
    presence.saw("one")
    presence.saw("one")
    assert not presence.is_alone("one")
    assert not presence.is_alone("two")


def test_an_authenticator_that_knows_all_identities_decides() -> None:
    presence = Presence()
    presence.saw("one", has_others=True)
    assert not presence.is_alone("one")

    presence.saw("two", has_others=False)
    assert presence.is_alone("two")
