"""The scenarios: what is done to the server, each bounded in count, and each answer in time by the client."""

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import httpx

from threadkeep_bench.client import Client, Turn
from threadkeep_bench.plan import NAMES, QUESTIONS, Burst, Flood, Memory, Plan, Race

BURST = 15
"""Turns of the burst, as in the original test."""
SAMPLE_S = 0.02
"""Between two looks at the server's load."""


async def at_once(turns: Sequence[Callable[[], Awaitable[Turn]]]) -> tuple[Turn, ...]:
    """Start all turns together and wait for the last; in the order given."""
    results: dict[int, Turn] = {}

    async def run(place: int) -> None:
        results[place] = await turns[place]()

    async with anyio.create_task_group() as tasks:
        for place in range(len(turns)):
            tasks.start_soon(run, place)
    return tuple(results[place] for place in range(len(turns)))


async def warm_up(client: Client) -> None:
    """Open connections and fill caches on both sides; nothing of it is counted."""
    await at_once([lambda: client.turn("Good morning.", 0.0)] * BURST)


async def race(client: Client, plan: Plan, *, mixed: bool) -> Race:
    """Seven turns, each on its own thread: one after the other, then at once in each round."""
    shares = tuple(share if mixed else 1.0 for _, share in QUESTIONS)
    longest_s = plan.mixed_latency_s if mixed else plan.latency_s
    turns = [
        lambda question=question, share=share: client.turn(question, share * longest_s)
        for (question, _), share in zip(QUESTIONS, shares, strict=True)
    ]
    in_turn = [await turn() for turn in turns]
    together = [await at_once(turns) for _ in range(plan.rounds)]
    return Race(shares=shares, in_turn=tuple(in_turn), at_once=tuple(together))


async def burst(client: Client, plan: Plan) -> Burst:
    """One turn alone, then fifteen at once in each round, on threads that are there already."""
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
    """Many turns at once, while the server's load is read every `SAMPLE_S` seconds."""
    samples: list[tuple[float, int]] = []
    turns: tuple[Turn, ...] = ()
    async with anyio.create_task_group() as watch:
        watch.start_soon(_sample, client, samples)
        turns = await at_once(
            [lambda order=order: client.turn(f"Order {order}.", plan.many_latency_s) for order in range(plan.many)]
        )
        watch.cancel_scope.cancel()
    return Flood(latency_s=plan.many_latency_s, turns=turns, samples=tuple(samples))


async def _sample(client: Client, samples: list[tuple[float, int]]) -> None:
    """Read the load until cancelled; end at once where the server tells none."""
    while True:
        try:
            running = (await client.info()).load.running
        except httpx.HTTPError:
            continue  # one look is lost; those before and after count
        if running is None:
            return
        samples.append((time.perf_counter(), running))
        await anyio.sleep(SAMPLE_S)


async def tell(client: Client, count: int) -> list[str]:
    """Tell `count` new threads a name each, at once; the threads, in the order of `NAMES`."""
    threads = [await client.thread() for _ in range(count)]
    await at_once(
        [
            lambda name=name, thread_id=thread_id: client.turn(f"My name is {name}.", 0.0, thread_id=thread_id)
            for name, thread_id in zip(NAMES, threads, strict=False)
        ]
    )
    return threads


async def ask(client: Client, threads: Sequence[str]) -> Memory:
    """Ask each of the threads that were told for its name, at once."""
    answers = await at_once(
        [lambda thread_id=thread_id: client.turn("What is my name?", 0.0, thread_id=thread_id) for thread_id in threads]
    )
    return Memory(names=NAMES[: len(threads)], asked=answers)
