"""App: settings and graphs -> a Starlette application. Where all is joined.

The lifespan opens what requests share, in the order in which it is needed, and closes it in the other.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from threadkeep.api import mount
from threadkeep.api.call import Operation, State
from threadkeep.api.errors import HANDLERS
from threadkeep.api.middleware import Requests
from threadkeep.api.routes import TABLE
from threadkeep.db import assistants, pool, workers
from threadkeep.db.checkpoints import Checkpoints, open_checkpoints
from threadkeep.db.listen import Wakeups, listening
from threadkeep.db.pool import Pool
from threadkeep.db.store import Store
from threadkeep.engine import webhook_policy
from threadkeep.engine.assistants import Assistants
from threadkeep.engine.drain import drain, drain_when_told
from threadkeep.engine.engine import Engine
from threadkeep.engine.heartbeat import beating
from threadkeep.engine.scheduler import schedule
from threadkeep.engine.slots import Slots
from threadkeep.engine.store import store_opener, sweep_items
from threadkeep.engine.sweeper import sweep
from threadkeep.engine.webhook_policy import Policy
from threadkeep.engine.webhooks import deliver
from threadkeep.engine.worker import obey_cancels, work
from threadkeep.graphs import LoadedGraph
from threadkeep.project import Project, builtin
from threadkeep.settings import Settings, environment

log = logging.getLogger(__name__)


def create_app(
    settings: Settings, uri: str, graphs: Mapping[str, LoadedGraph], project: Project | None = None
) -> Starlette:
    """The application that serves `graphs` on the migrated Postgres at `uri`.

    `project` says how: its `http` and `store`. StartRefused where these ask for what can't be loaded.
    """
    project = project or builtin()
    http = project.http
    mount.refuse_unhonoured(http)
    custom = mount.load_custom(project)
    open_store = store_opener(project)
    webhooks = webhook_policy.of(project, environment(project.webhooks.env_prefix))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        async with (
            mount.lifespan_of(custom) as theirs,
            open_state(settings, uri, graphs, project, open_store, webhooks) as state,
        ):
            app.state.stopping = state["engine"].stopping
            yield {**theirs, **state}

    return Starlette(
        routes=mount.joined(http, mount.served(http, [route(operation) for operation in TABLE]), custom),
        middleware=[mount.cors(http), Middleware(Requests)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


def route(operation: Operation) -> Route:
    """The router's form of a line of the table."""
    return Route(operation.path, operation.__call__, methods=[operation.method])


@asynccontextmanager
async def open_state(
    settings: Settings,
    uri: str,
    graphs: Mapping[str, LoadedGraph],
    project: Project,
    open_store: Callable[[Pool], Store],
    webhooks: Policy,
) -> AsyncGenerator[State]:
    """All that requests and background duties share, open until the block ends."""
    direct = settings.database_direct_uri or uri
    async with (
        pool.open_api_pool(settings, uri) as api_pool,
        pool.open_runs_pool(settings, uri) as runs_pool,
        listening(direct) as wakeups,
        open_checkpoints(runs_pool, _serde(project)) as saver,
        anyio.create_task_group() as tasks,
    ):
        await pool.check_capacity(api_pool, settings)
        kept = saver, open_store(runs_pool)
        engine = _engine(settings, graphs, (api_pool, *kept), wakeups, tasks, webhooks)
        async with api_pool.connection() as conn:
            await workers.create(conn, engine.worker_id)
            await assistants.ensure_system(conn, {name: graph.description for name, graph in graphs.items()})
        with beating(direct, engine.worker_id):
            async with anyio.create_task_group() as duties:
                for duty in (drain_when_told, work, obey_cancels, sweep, sweep_items, schedule, deliver):
                    duties.start_soon(duty, engine, name=duty.__name__)
                yield State(engine=engine, assistants=Assistants(api_pool, graphs), project=project)
                duties.cancel_scope.cancel()
            await drain(engine)


def _serde(project: Project) -> JsonPlusSerializer:
    """Strict: beside LangGraph's own and each graph's state types, only what `checkpointer.serde` names is revived."""
    serde = project.checkpointer.serde
    return JsonPlusSerializer(
        allowed_json_modules=serde.allowed_json_modules, allowed_msgpack_modules=serde.allowed_msgpack_modules
    )


def _engine(
    settings: Settings,
    graphs: Mapping[str, LoadedGraph],
    kept: tuple[Pool, Checkpoints, Store],
    wakeups: Wakeups,
    tasks: TaskGroup,
    webhooks: Policy,
) -> Engine:
    """The engine, its graphs bound to the checkpointer and the store."""
    api_pool, saver, store = kept
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
        webhooks=webhooks,
    )
