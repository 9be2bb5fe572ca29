"""App: settings and graphs -> a Starlette application. Where all is joined.

The lifespan opens what requests share, in the order in which it is needed, and closes it in the other.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.postgres.aio import AsyncPostgresStore
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from threadkeep.api.call import Operation, State
from threadkeep.api.errors import HANDLERS
from threadkeep.api.middleware import Requests
from threadkeep.api.routes import TABLE
from threadkeep.db import assistants, pool, workers
from threadkeep.db.checkpoints import Checkpoints
from threadkeep.db.listen import Wakeups, listening
from threadkeep.db.pool import Pool
from threadkeep.engine.assistants import Assistants
from threadkeep.engine.drain import drain
from threadkeep.engine.engine import Engine
from threadkeep.engine.heartbeat import beating
from threadkeep.engine.slots import Slots
from threadkeep.engine.sweeper import sweep
from threadkeep.engine.worker import obey_cancels, work
from threadkeep.graphs import LoadedGraph
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
EXPOSED = ("content-location", "location", "x-pagination-total", "x-pagination-next", "x-request-id")
"""Without Content-Location a browser's useStream can't rejoin a run."""


def create_app(settings: Settings, uri: str, graphs: Mapping[str, LoadedGraph]) -> Starlette:
    """The application that serves `graphs` on the migrated Postgres at `uri`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        del app
        async with open_state(settings, uri, graphs) as state:
            yield state

    return Starlette(
        routes=[route(operation) for operation in TABLE],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origin_regex=LOOPBACK_ORIGINS,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
            ),
            Middleware(Requests),
        ],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


def route(operation: Operation) -> Route:
    """The router's form of a line of the table."""
    return Route(operation.path, operation.__call__, methods=[operation.method])


@asynccontextmanager
async def open_state(settings: Settings, uri: str, graphs: Mapping[str, LoadedGraph]) -> AsyncGenerator[State]:
    """All that requests and background duties share, open until the block ends."""
    direct = settings.database_direct_uri or uri
    async with (
        pool.open_api_pool(settings, uri) as api_pool,
        pool.open_runs_pool(settings, uri) as runs_pool,
        listening(direct) as wakeups,
        anyio.create_task_group() as tasks,
    ):
        await pool.check_capacity(api_pool, settings)
        engine = _engine(settings, graphs, (api_pool, runs_pool), wakeups, tasks)
        async with api_pool.connection() as conn:
            await workers.create(conn, engine.worker_id)
            await assistants.ensure_system(conn, {name: graph.description for name, graph in graphs.items()})
        with beating(direct, engine.worker_id):
            async with anyio.create_task_group() as duties:
                for duty in (work, obey_cancels, sweep):
                    duties.start_soon(duty, engine, name=duty.__name__)
                yield State(engine=engine, assistants=Assistants(api_pool, graphs))
                duties.cancel_scope.cancel()
            await drain(engine)


def _engine(
    settings: Settings,
    graphs: Mapping[str, LoadedGraph],
    pools: tuple[Pool, Pool],
    wakeups: Wakeups,
    tasks: TaskGroup,
) -> Engine:
    """The engine, its graphs bound to the checkpointer and the store."""
    api_pool, runs_pool = pools
    saver = Checkpoints(runs_pool, serde=JsonPlusSerializer())
    store = AsyncPostgresStore(runs_pool)
    for graph in graphs.values():
        graph.bind(checkpointer=saver, store=store)
    return Engine(
        settings=settings,
        graphs=graphs,
        pool=api_pool,
        saver=saver,
        store=store,
        slots=Slots(settings.run_slots, max_waiting=settings.max_waiting, timeout_s=settings.queue_timeout_s),
        wakeups=wakeups,
        tasks=tasks,
    )
