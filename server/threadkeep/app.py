"""App: settings and graphs -> a Starlette application. Where all is joined.

What can't be loaded stops the start here, before anything is opened. The lifespan then opens what requests share, in
the order in which it is needed, and closes it in the other.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from langgraph.checkpoint.serde.base import SerializerProtocol
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from threadkeep.api import mount
from threadkeep.api.errors import HANDLERS
from threadkeep.api.middleware import Requests
from threadkeep.api.operation import Docs, Operation, State
from threadkeep.api.ops import docs, metrics
from threadkeep.api.ops.scrape import Scrape
from threadkeep.api.routes import SOCKETS, TABLE
from threadkeep.auth import loading
from threadkeep.base.fair_limiter import FairLimiter
from threadkeep.base.metrics import Metrics
from threadkeep.base.tracing import Tracing
from threadkeep.base.tracing import opened as opened_tracing
from threadkeep.duties.cleanup import clear
from threadkeep.duties.cron_scheduler import schedule
from threadkeep.duties.heartbeat import beating, replace_lost
from threadkeep.duties.lease_reaper import sweep
from threadkeep.duties.shutdown import drain, drain_when_told
from threadkeep.duties.store_items import store_opener, sweep_items
from threadkeep.duties.watchdog import watch
from threadkeep.duties.webhooks import deliver
from threadkeep.duties.worker import obey_cancels, work
from threadkeep.graphs import LoadedGraph
from threadkeep.persistence import encryption, group_commit
from threadkeep.persistence.checkpointer import Checkpoints
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.persistence.serializer import Serializer
from threadkeep.persistence.store import Store
from threadkeep.postgres import pool, tenancy
from threadkeep.postgres.listen import Wakeups, listening
from threadkeep.postgres.pool import Pool
from threadkeep.project import Project, builtin
from threadkeep.runs import event_commit, webhook_policy
from threadkeep.runs.assistants import Assistants
from threadkeep.runs.engine import Engine, Expiry
from threadkeep.runs.event_commit import EventCommit
from threadkeep.runs.event_recorder import keep_watched
from threadkeep.runs.isolation import containing
from threadkeep.runs.quotas import Quotas
from threadkeep.runs.slots import Slots
from threadkeep.runs.webhook_policy import Policy
from threadkeep.settings import Settings, environment
from threadkeep.tables import TENANT_TABLES, assistants, run_creation, workers
from threadkeep.tables.run_creation import Openings
from threadkeep.tables.threads import Ttl
from threadkeep.threads.retention import expire

DUTIES = (
    drain_when_told,
    replace_lost,
    work,
    obey_cancels,
    keep_watched,
    sweep,
    expire,
    clear,
    sweep_items,
    schedule,
    deliver,
    watch,
)
"""What goes on in the background of every process, until it stops."""
DUTY_PAUSE_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be opened: all that was read and loaded before."""

    settings: Settings
    uri: str
    graphs: Mapping[str, LoadedGraph]
    project: Project
    open_store: Callable[[Pool], Store]
    webhooks: Policy
    docs: Docs
    metrics: Metrics
    metrics_guarded: bool
    tracing: Tracing | None
    auth: loading.Loaded

    @property
    def direct_uri(self) -> str:
        """Past a transaction pooler, for LISTEN and the heartbeat."""
        return self.settings.database_direct_uri or self.uri

    @property
    def thread_ttl(self) -> Ttl | None:
        """`checkpointer.ttl`: of new threads for which the client gives none."""
        ttl = self.project.checkpointer.ttl
        return Ttl(strategy=ttl.strategy, minutes=ttl.default_ttl) if ttl and ttl.default_ttl else None

    @property
    def expiry(self) -> Expiry:
        """`checkpointer.ttl`: how often expired threads are ended, and how many at a time."""
        ttl, usual = self.project.checkpointer.ttl, Expiry()
        if ttl is None:
            return usual
        every_s = ttl.sweep_interval_minutes * 60 if ttl.sweep_interval_minutes else usual.every_s
        return Expiry(every_s=every_s, limit=ttl.sweep_limit or usual.limit)

    @property
    def serde(self) -> SerializerProtocol:
        """Strict: beside LangGraph's own and each graph's state types, only what `checkpointer.serde` names is revived."""
        serde = self.project.checkpointer.serde
        strict = Serializer(
            allowed_json_modules=serde.allowed_json_modules, allowed_msgpack_modules=serde.allowed_msgpack_modules
        )
        return encryption.serializer(strict, self.settings.aes_key_bytes)


def create_app(
    settings: Settings, uri: str, graphs: Mapping[str, LoadedGraph], project: Project | None = None
) -> Starlette:
    """The application that serves `graphs` on the migrated Postgres at `uri`.

    `project` says how: its `http`, `store`, `checkpointer` and `webhooks`. StartRefused where these ask for what
    can't be loaded.
    """
    project = project or builtin()
    auth = loading.load(settings, project)
    mount.refuse_unhonoured(project.http, has_door=auth.kind != "none")
    custom = mount.load_custom(project)
    served = [one for one in mount.served(project.http, TABLE) if one.path != "/metrics" or metrics.is_served(settings)]
    tracing = opened_tracing(environment("OTEL_"))
    plan = Plan(
        settings=settings,
        uri=uri,
        graphs=graphs,
        project=project,
        open_store=store_opener(project, settings.channel_bytes),
        webhooks=webhook_policy.of(project, environment(project.webhooks.env_prefix)),
        docs=docs.load(
            docs.Described(
                served=tuple(served),
                prefix=mount.prefix(project.http),
                kind=auth.kind,
                auth=project.auth,
                app=custom,
                kept=mount.KEPT,
            )
        ),
        auth=auth,
        metrics=Metrics(graphs, [(one.method, one.path) for one in served]),
        metrics_guarded=metrics.is_guarded(settings, has_door=auth.kind != "none"),
        tracing=tracing,
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        async with mount.lifespan_of(custom) as theirs, open_state(plan) as state:
            app.state.stopping, app.state.hurried = state["engine"].stopping, state["engine"].hurried
            yield {**theirs, **state}

    requests = Middleware(Requests, metrics=plan.metrics, tracing=plan.tracing)
    page_guard = mount.page_guard(project.http, settings, served, authenticates=auth.kind != "none")
    return Starlette(
        routes=mount.joined(project.http, routes(served), custom),
        middleware=[mount.cors(project.http, settings.host), requests, page_guard],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


def routes(served: Sequence[Operation]) -> list[BaseRoute]:
    """What is served: operations, and the sockets on their paths."""
    paths = {one.path for one in served}
    sockets = [WebSocketRoute(one.path, one.__call__) for one in SOCKETS if one.path in paths]
    return [*(route(operation) for operation in served), *sockets]


def route(operation: Operation) -> Route:
    """The router's form of a line of the table."""
    return Route(operation.path, operation, methods=[operation.method])


@asynccontextmanager
async def open_state(plan: Plan) -> AsyncGenerator[State]:
    """All that requests and background duties share, open until the block ends."""
    async with (
        pool.open_api_pool(plan.settings, plan.uri) as api_pool,
        pool.open_runs_pool(plan.settings, plan.uri) as runs_pool,
        plan.auth.opened(api_pool) as door,
        listening(plan.direct_uri) as wakeups,
        run_creation.opening(api_pool) as opens,
        group_commit.committing(runs_pool, plan.metrics.committed) as commits,
        event_commit.committing(api_pool) as events,
    ):
        await pool.check_capacity(api_pool, plan.settings)
        await tenancy.enable_row_security(api_pool, runs_pool, tables=TENANT_TABLES, needed=door is not None)
        saver = Checkpoints(runs_pool, commits, plan.serde, channel_bytes=plan.settings.channel_bytes)
        engine = _engine(plan, Parts(api_pool, opens, saver, commits, plan.open_store(runs_pool), events, wakeups))
        await _announce(engine)
        scrape = Scrape(engine, {"api": api_pool, "runs": runs_pool}, plan.metrics_guarded)
        with containing(), beating(plan.direct_uri, engine.lease, plan.settings.lease_s):
            async with metrics.on_port(scrape, plan.settings), anyio.create_task_group() as duties:
                for duty in DUTIES:
                    duties.start_soon(go_on, duty, engine, name=duty.__name__)
                yield State(
                    engine=engine,
                    quotas=Quotas(plan.settings, api_pool, engine.live),
                    assistants=Assistants(api_pool, plan.graphs),
                    project=plan.project,
                    docs=plan.docs,
                    door=door,
                    scrape=scrape,
                )
                duties.cancel_scope.cancel()
            await drain(engine)
            await engine.live.ended()
    if plan.tracing is not None:
        await plan.tracing.close()


async def go_on(duty: Callable[[Engine], Awaitable[None]], engine: Engine) -> None:
    """Do a duty, and again where it failed in a way that nobody foresaw: without it the process would be of no use."""
    while True:
        try:
            await duty(engine)
        except Exception:
            log.exception("a background duty failed and starts anew", extra={"duty": duty.__name__})
            await anyio.sleep(DUTY_PAUSE_S)
        else:
            return


@dataclass(frozen=True, slots=True)
class Parts:
    """What the lifespan has opened."""

    pool: Pool
    openings: Openings
    saver: Checkpoints
    commits: GroupCommit
    store: Store
    event_commit: EventCommit
    wakeups: Wakeups


def _engine(plan: Plan, parts: Parts) -> Engine:
    """The engine, its graphs bound to the checkpointer and the store."""
    for graph in plan.graphs.values():
        graph.bind(checkpointer=parts.saver, store=parts.store)
    settings = plan.settings
    return Engine(
        settings=settings,
        graphs=plan.graphs,
        pool=parts.pool,
        saver=parts.saver,
        store=parts.store,
        slots=Slots(
            FairLimiter(settings.run_slots, max_waiting=settings.max_waiting),
            timeout_s=settings.queue_timeout_s,
            waited=plan.metrics.slot_wait.observe,
        ),
        openings=parts.openings,
        commits=parts.commits,
        event_commit=parts.event_commit,
        wakeups=parts.wakeups,
        metrics=plan.metrics,
        tracing=plan.tracing,
        webhooks=plan.webhooks,
        expiry=plan.expiry,
        thread_ttl=plan.thread_ttl,
    )


async def _announce(engine: Engine) -> None:
    """Say that this process is there, and that its graphs can be run."""
    async with engine.pool.connection() as conn:
        await workers.create(conn, engine.worker_id)
        await assistants.ensure_system(conn, {name: graph.description for name, graph in engine.graphs.items()})
