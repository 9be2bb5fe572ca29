"""The scenarios of the measurement. The number of turns is limited, and the client limits the time of each answer."""

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import httpx

from threadkeep_bench.client import Client, Turn
from threadkeep_bench.plan import NAMES, QUESTIONS, Burst, Flood, Memory, Plan, Race

BURST = 15
"""Turns of the burst, as in the original test."""
SAMPLE_S = 0.02
"""Seconds between two reads of the server's load."""


async def at_once(turns: Sequence[Callable[[], Awaitable[Turn]]]) -> tuple[Turn, ...]:
    """Start all turns together and wait for the last one. Return their results in the given order."""
    results: dict[int, Turn] = {}

    async def run(place: int) -> None:
        results[place] = await turns[place]()

    async with anyio.create_task_group() as tasks:
        for place in range(len(turns)):
            tasks.start_soon(run, place)
    return tuple(results[place] for place in range(len(turns)))


async def warm_up(client: Client) -> None:
    """Open connections and fill caches on both sides, without counting this."""
    await at_once([lambda: client.turn("Good morning.", 0.0)] * BURST)


async def race(client: Client, plan: Plan, *, mixed: bool) -> Race:
    """Measure seven turns on a thread each: sequentially, then at once in each round."""
    shares = tuple(share if mixed else 1.0 for _, share in QUESTIONS)
    longest_s = plan.mixed_latency_s if mixed else plan.latency_s
    turns = [
        # Defaults, because a lambda reads the loop's variables only when it is called.
        lambda question=question, share=share: client.turn(question, share * longest_s)
        for (question, _), share in zip(QUESTIONS, shares, strict=True)
    ]
    in_turn = [await turn() for turn in turns]
    together = [await at_once(turns) for _ in range(plan.rounds)]
    return Race(shares=shares, in_turn=tuple(in_turn), at_once=tuple(together))


async def burst(client: Client, plan: Plan) -> Burst:
    """Measure one turn alone, then fifteen at once in each round, on existing threads."""
    alone = await _reports(client, plan, 1)
    together = [await _reports(client, plan, BURST) for _ in range(plan.burst_rounds)]
    return Burst(slots=(await client.info()).limits.run_slots, alone=alone[0], at_once=tuple(together))


async def _reports(client: Client, plan: Plan, count: int) -> tuple[Turn, ...]:
    threads = [await client.thread() for _ in range(count)]
    return await at_once(
        [
            lambda shelf=shelf, thread_id=thread_id: client.turn(
                f"Report on shelf {shelf}.", plan.burst_latency_s, thread_id=thread_id
            )
            for shelf, thread_id in enumerate(threads, start=1)
        ]
    )


async def flood(client: Client, plan: Plan) -> Flood:
    """Measure many turns at once, and read the server's load every `SAMPLE_S` seconds."""
    samples: list[tuple[float, int]] = []
    turns: tuple[Turn, ...] = ()
    async with anyio.create_task_group() as watch:
        watch.start_soon(_sample, client, samples)
        turns = await at_once(
            [lambda order=order: client.turn(f"Order {order}.", plan.many_latency_s) for order in range(plan.many)]
        )
        # The sampling never ends by itself.
        watch.cancel_scope.cancel()
    return Flood(latency_s=plan.many_latency_s, turns=turns, samples=tuple(samples))


async def _sample(client: Client, samples: list[tuple[float, int]]) -> None:
    """Read the load until cancelled. Return at once if the server has none."""
    while True:
        try:
            running = (await client.info()).load.running
        except httpx.HTTPError:
            continue  # one read is lost, and the reads before and after it count
        if running is None:
            return
        samples.append((time.perf_counter(), running))
        await anyio.sleep(SAMPLE_S)


async def tell(client: Client, count: int) -> list[str]:
    """Send a name to each of `count` new threads at once. Return the threads in the order of `NAMES`."""
    threads = [await client.thread() for _ in range(count)]
    await at_once(
        [
            lambda name=name, thread_id=thread_id: client.turn(f"My name is {name}.", 0.0, thread_id=thread_id)
            for name, thread_id in zip(NAMES, threads, strict=False)
        ]
    )
    return threads


async def ask(client: Client, threads: Sequence[str]) -> Memory:
    """Ask each thread for its name, all at once."""
    answers = await at_once(
        [lambda thread_id=thread_id: client.turn("What is my name?", 0.0, thread_id=thread_id) for thread_id in threads]
    )
    return Memory(names=NAMES[: len(threads)], turns=answers)
