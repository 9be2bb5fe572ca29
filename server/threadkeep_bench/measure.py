"""The order of the measurement: the scenarios, and the kill and restart of the server between them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anyio

from threadkeep import settings
from threadkeep_bench import scenarios
from threadkeep_bench.client import Client, connected
from threadkeep_bench.plan import NAMES, Burst, Measured, Memory, Plan
from threadkeep_bench.serve import COMMAND, serving

LIMIT_S = 600.0
"""Seconds for the whole report. Then TimeoutError."""
PERSISTENT = 3
"""Threads that get a name before the kill, and a question about it afterwards."""


async def measure_at(url: str, plan: Plan, say: Callable[[str], None]) -> Measured:
    """Measure the server at `url` without killing it. The threads made there are deleted."""
    with anyio.fail_after(LIMIT_S):
        async with connected(url) as client:
            try:
                return await _measure(client, url, plan, say)
            finally:
                # Also after Ctrl-C: the threads are on a server that others use.
                with anyio.CancelScope(shield=True):
                    await client.forget()


async def measure_own(plan: Plan, say: Callable[[str], None], *, command: Sequence[str] = COMMAND) -> Measured:
    """Start a server, measure it, and kill it. Then start it again on the same data with a slot for each turn of the burst."""
    with anyio.fail_after(LIMIT_S):
        # A process of a killed Postgres may still write while the folder is deleted.
        async with anyio.TemporaryDirectory(prefix="threadkeep-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            say("starting a server")
            async with serving(folder, command=command) as server, connected(server.url) as client:
                measured = await _measure(client, server.url, plan, say)
                # Right before the kill, so that nothing but the commit of these runs can have saved the names.
                await scenarios.tell(client, PERSISTENT)
                say("killing the server, and starting it again on the same data")
                await server.kill()
            persistence, roomy = await _again(folder, command, client.threads, plan, say)
            return replace(measured, started=True, persistence=persistence, roomy=roomy)


async def _again(
    folder: Path, command: Sequence[str], thread_ids: list[str], plan: Plan, say: Callable[[str], None]
) -> tuple[Memory, Burst]:
    """Ask the last threads made before the kill, and send the burst to the server with a slot for each turn."""
    slots = scenarios.BURST
    async with serving(folder, command=command, run_slots=slots) as server, connected(server.url) as client:
        # So that `forget` also deletes the threads of the first client, which is gone.
        client.threads.extend(thread_ids)
        persistence = await scenarios.ask(client, thread_ids[-PERSISTENT:])
        await scenarios.warm_up(client)
        say(f"{slots} at once, with {slots} slots")
        roomy = await scenarios.burst(client, plan)
        if settings.load_settings().database_uri is not None:  # else the data goes with the folder
            await client.forget()
        return persistence, roomy


async def _measure(client: Client, url: str, plan: Plan, say: Callable[[str], None]) -> Measured:
    version = (await client.info()).version
    await scenarios.warm_up(client)
    say("7 of equal length: one after the other, then at once")
    equal = await scenarios.race(client, plan, mixed=False)
    say("7 of mixed length: one after the other, then at once")
    mixed = await scenarios.race(client, plan, mixed=True)
    say(f"{scenarios.BURST} at once")
    burst = await scenarios.burst(client, plan)
    say(f"{plan.many} at once")
    flood = await scenarios.flood(client, plan)
    say(f"{len(NAMES)} threads with a name each")
    isolation = await scenarios.ask(client, await scenarios.tell(client, len(NAMES)))
    return Measured(
        url=url,
        version=version,
        started=False,
        plan=plan,
        equal=equal,
        mixed=mixed,
        burst=burst,
        roomy=None,
        flood=flood,
        isolation=isolation,
        persistence=None,
    )
