"""App: settings and graphs -> a Starlette application. Everything is joined here.

What can't be loaded stops the start here, before anything is opened. The lifespan then opens what requests share, in the
order in which it is needed, and closes it in the other.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from langgraph.checkpoint.serde.base import SerializerProtocol
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from threadkeep import sdk_cache
from threadkeep.api import loopback, mount
from threadkeep.api.errors import HANDLERS
from threadkeep.api.middleware import Requests
from threadkeep.api.operation import STATE, Docs, Operation, State
from threadkeep.api.ops import docs, metrics
from threadkeep.api.ops.scrape import Scrape
from threadkeep.api.request_shares import RequestShares
from threadkeep.api.routes import SOCKETS, TABLE
from threadkeep.auth import Door, loading
from threadkeep.auth.presence import Presence
from threadkeep.base.fair_limiter import FairLimiter, quarter
from threadkeep.base.metrics import Metrics
from threadkeep.base.signals import ProcessSignals
from threadkeep.base.tracing import Tracing
from threadkeep.base.tracing import opened as opened_tracing
from threadkeep.duties.cleanup import Cleanup
from threadkeep.duties.cron_scheduler import CronScheduler
from threadkeep.duties.heartbeat import LeaseReplacement, heartbeat
from threadkeep.duties.lease_reaper import LeaseReaper
from threadkeep.duties.periodic import Duty, repeat
from threadkeep.duties.shutdown import Shutdown
from threadkeep.duties.store_items import StoreSweep, store_opener
from threadkeep.duties.watchdog import LoopLag, watching
from threadkeep.duties.webhooks import WebhookSender, webhook_sender
from threadkeep.duties.worker import CancelledRuns, UnservedRuns, Worker
from threadkeep.graphs import LoadedGraph
from threadkeep.persistence import encryption, group_commit
from threadkeep.persistence.checkpointer import Checkpoints
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.persistence.project_types import ProjectTypes
from threadkeep.persistence.serializer import Serializer
from threadkeep.persistence.store import Store
from threadkeep.postgres import pool, session, tenancy
from threadkeep.postgres.listen import Wakeups, listening, polling
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.session import Pooler
from threadkeep.project import Project, builtin, identity
from threadkeep.runs import webhook_policy
from threadkeep.runs.assistants import Assistants
from threadkeep.runs.event_recorder import EventRecorder, FollowedRuns, recording
from threadkeep.runs.execution import Executions
from threadkeep.runs.executor import Executor
from threadkeep.runs.follow import Follower
from threadkeep.runs.idempotency import IdempotencyKeys
from threadkeep.runs.isolation import containing
from threadkeep.runs.lease import Lease
from threadkeep.runs.quotas import Quotas
from threadkeep.runs.service import RunService
from threadkeep.runs.slots import Slots
from threadkeep.runs.webhook_policy import Policy
from threadkeep.settings import Settings, environment
from threadkeep.tables import TENANT_TABLES, assistants, run_creation, threads, workers
from threadkeep.tables.run_creation import Openings
from threadkeep.tables.threads import Ttl
from threadkeep.threads.history import ThreadParts
from threadkeep.threads.retention import ThreadExpiry

log = logging.getLogger(__name__)

MIN_NODE_THREADS: Final = 32
"""A run may have several plain functions at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be opened: all that was read and loaded before."""

    settings: Settings
    uri: str
    graphs: Mapping[str, LoadedGraph]
    project: Project
    open_store: Callable[[Pool], Store]
    serializer: Serializer
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
    def serde(self) -> SerializerProtocol:
        """Of checkpoints: they are encrypted if there are keys."""
        return encryption.serializer(self.serializer, self.settings.aes_keys)


def strict_serializer(project: Project) -> Serializer:
    """Beside LangGraph's own, the project's and each graph's state types, only what `checkpointer.serde` names is made
    again."""
    serde = project.checkpointer.serde
    return Serializer(
        types=ProjectTypes.of(project),
        allowed_json_modules=serde.allowed_json_modules,
        allowed_msgpack_modules=serde.allowed_msgpack_modules,
    )


def create_app(
    settings: Settings, uri: str, graphs: Mapping[str, LoadedGraph], project: Project | None = None
) -> Starlette:
    """The application that serves `graphs` on the migrated Postgres at `uri`.

    `project` says how: its `http`, `store`, `checkpointer` and `webhooks`. StartRefused if these ask for what can't be
    loaded.
    """
    project = project or builtin()
    if settings.project is None:
        settings = settings.model_copy(update={"project": identity(project)})
    auth, serializer = loading.load(settings, project), strict_serializer(project)
    mount.refuse_unhonoured(project.http, has_door=auth.kind != "none")
    custom = mount.load_custom(project)
    served = [one for one in mount.served(project.http, TABLE) if one.path != "/metrics" or metrics.is_served(settings)]
    plan = Plan(
        settings=settings,
        uri=uri,
        graphs=graphs,
        project=project,
        open_store=store_opener(project, settings.channel_bytes, serializer),
        serializer=serializer,
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
        tracing=opened_tracing(environment("OTEL_")),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        async with (
            loopback.opened(app, mount.prefix(project.http)) as within,
            sdk_cache.opened(),
            mount.lifespan_of(custom, project.root) as theirs,
            open_state(plan) as state,
        ):
            app.state.stopping, app.state.hurried = state.signals.stopping, state.signals.hurried
            within.state = {**theirs, STATE: state}
            yield within.state

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
    return [*(Route(one.path, one, methods=[one.method]) for one in served), *sockets]


@asynccontextmanager
async def open_state(plan: Plan) -> AsyncGenerator[State]:
    """All that requests and background duties share, open until the block ends."""
    async with opened(plan) as parts:
        await pool.check_sessions(parts.pool)
        await pool.check_capacity(parts.pool, plan.settings)
        needed = parts.door is not None
        await tenancy.enable_row_security(parts.pool, parts.runs_pool, tables=TENANT_TABLES, needed=needed)
        await _announce(plan, parts)
        state = _state(plan, parts)
        shutdown = _shutdown(plan, parts)
        lag = LoopLag(plan.metrics)
        with (
            containing(),
            heartbeat(
                plan.direct_uri,
                parts.lease,
                plan.settings.lease_s,
                parts.wakeups,
                own_session=plan.settings.database_direct_uri is not None or parts.pool.pooler != "transaction",
            ),
            watching(lag),
        ):
            async with metrics.on_port(state.scrape, plan.settings), anyio.create_task_group() as tasks:
                tasks.start_soon(shutdown.drain_when_told, name="shutdown")
                for duty in (lag, *_duties(plan, parts, state)):
                    tasks.start_soon(repeat, duty, parts.wakeups, name=type(duty).__name__)
                yield state
                tasks.cancel_scope.cancel()
            await shutdown.drain()
            await parts.executions.all_ended()
    if plan.tracing is not None:
        await plan.tracing.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the lifespan has opened: connections, writers and the registries of this process."""

    pool: Pool
    """Of the API and the queue."""
    runs_pool: Pool
    """Of running graphs."""
    door: Door | None
    wakeups: Wakeups
    openings: Openings
    commits: GroupCommit
    recorder: EventRecorder
    sender: WebhookSender
    checkpoints: Checkpoints
    store: Store
    slots: Slots
    presence: Presence
    executions: Executions
    lease: Lease
    signals: ProcessSignals = field(default_factory=ProcessSignals)


@asynccontextmanager
async def opened(plan: Plan) -> AsyncGenerator[Parts]:
    """The parts, open until the block ends."""
    settings, executions, lease, presence = plan.settings, Executions(), Lease(), Presence()
    _give_nodes_threads(settings.run_slots)
    pooler = await _pooler(plan)
    polls = pooler == "transaction" and settings.database_direct_uri is None
    async with (
        pool.open_api_pool(settings, plan.uri, pooler) as api_pool,
        pool.open_runs_pool(settings, plan.uri, pooler) as runs_pool,
        plan.auth.opened(api_pool) as door,
        polling() if polls else listening(plan.direct_uri) as wakeups,
        run_creation.opening(api_pool) as openings,
        group_commit.committing(runs_pool, plan.metrics.committed) as commits,
        recording(api_pool, executions, lease) as recorder,
        webhook_sender(api_pool, wakeups, plan.webhooks, presence.is_alone) as sender,
    ):
        yield Parts(
            pool=api_pool,
            runs_pool=runs_pool,
            door=door,
            wakeups=wakeups,
            openings=openings,
            commits=commits,
            recorder=recorder,
            sender=sender,
            checkpoints=Checkpoints(runs_pool, commits, plan.serde, channel_bytes=settings.channel_bytes),
            store=plan.open_store(runs_pool),
            slots=_slots(plan, presence),
            presence=presence,
            executions=executions,
            lease=lease,
        )


async def _pooler(plan: Plan) -> Pooler:
    """What stands between the server and Postgres. The log tells if it costs something."""
    direct = plan.settings.database_direct_uri is not None
    pooler = "transaction" if direct else await session.detect_pooler(plan.uri)
    if pooler == "transaction":
        log.warning(
            "a transaction pooler is in front of Postgres: no statement is prepared",
            extra={"wake_ups": "LISTEN at DATABASE_DIRECT_URI" if direct else "polling, which is slower"},
        )
    return pooler


def _give_nodes_threads(run_slots: int) -> None:
    """Make the loop's default executor wide enough: LangGraph runs plain functions in it.

    By default it has as many threads as cores and four more, which bounds graphs that merely wait. It is never shut down:
    the loop may be another server's too, and a node that does not end must not keep the process.
    """
    threads = ThreadPoolExecutor(max(MIN_NODE_THREADS, 2 * run_slots), thread_name_prefix="node")
    asyncio.get_running_loop().set_default_executor(threads)


def _slots(plan: Plan, presence: Presence) -> Slots:
    """The slots of this process, which principals share."""
    settings = plan.settings
    reserve = quarter(settings.run_slots) if settings.slot_reserve is None else settings.slot_reserve
    limiter = FairLimiter(
        settings.run_slots, reserve=reserve, max_waiting=settings.max_waiting, is_alone=presence.is_alone
    )
    return Slots(limiter, timeout_s=settings.queue_timeout_s, waited=plan.metrics.slot_wait.observe)


def _state(plan: Plan, parts: Parts) -> State:
    """What endpoints get. Binds the graphs to the checkpointer and the store."""
    for graph in plan.graphs.values():
        graph.bind(checkpointer=parts.checkpoints, store=parts.store)
    runs = _run_service(plan, parts)
    return State(
        settings=plan.settings,
        project=plan.project,
        docs=plan.docs,
        door=parts.door,
        signals=parts.signals,
        pool=parts.pool,
        wakeups=parts.wakeups,
        graphs=plan.graphs,
        threads=ThreadParts(
            pool=parts.pool,
            graphs=plan.graphs,
            checkpoints=parts.checkpoints,
            answer_bytes=plan.settings.answer_bytes,
        ),
        store=parts.store,
        slots=parts.slots,
        quotas=runs.quotas,
        shares=RequestShares(plan.settings, parts.presence.is_alone),
        assistants=runs.assistants,
        runs=runs,
        scrape=Scrape(
            pools={"api": parts.pool, "runs": parts.runs_pool},
            slots=parts.slots,
            abandoned=runs.executor.abandoned,
            lease=parts.lease,
            metrics=plan.metrics,
            guarded=plan.metrics_guarded,
        ),
    )


def _run_service(plan: Plan, parts: Parts) -> RunService:
    """The one way to run, with the parts that it uses."""
    settings = plan.settings
    executor = Executor(
        settings=settings,
        graphs=plan.graphs,
        pool=parts.pool,
        commits=parts.commits,
        recorder=parts.recorder,
        wakeups=parts.wakeups,
        lease=parts.lease,
        metrics=plan.metrics,
        tracing=plan.tracing,
        executions=parts.executions,
    )
    return RunService(
        pool=parts.pool,
        slots=parts.slots,
        openings=parts.openings,
        executor=executor,
        follower=Follower(pool=parts.pool, wakeups=parts.wakeups, executions=parts.executions, signals=parts.signals),
        assistants=Assistants(parts.pool, plan.graphs),
        quotas=Quotas(settings, parts.pool, parts.executions, parts.presence),
        keys=IdempotencyKeys(pool=parts.pool, lease=parts.lease, settings=settings),
        webhooks=plan.webhooks,
        thread_ttl=plan.thread_ttl,
        metadata_bytes=settings.metadata_bytes,
        max_recursion=settings.max_recursion,
    )


def _duties(plan: Plan, parts: Parts, state: State) -> Sequence[Duty]:
    """What goes on in the background of every process, until it stops."""
    api_pool, executions, lease = parts.pool, parts.executions, parts.lease
    reaper = LeaseReaper(
        pool=api_pool, executions=executions, lease=lease, settings=plan.settings, metrics=plan.metrics
    )
    worker = Worker(
        pool=api_pool,
        graph_ids=tuple(plan.graphs),
        slots=parts.slots,
        executor=state.runs.executor,
        lease=lease,
        signals=parts.signals,
        metrics=plan.metrics,
        wakeups=parts.wakeups,
    )
    return (
        LeaseReplacement(
            pool=api_pool, lease=lease, graph_ids=tuple(plan.graphs), executions=executions, reaper=reaper
        ),
        worker,
        UnservedRuns(pool=api_pool, metrics=plan.metrics),
        CancelledRuns(pool=api_pool, executions=executions, lease=lease),
        FollowedRuns(pool=api_pool, executions=executions, recorder=parts.recorder),
        reaper,
        ThreadExpiry(pool=api_pool, checkpoints=parts.checkpoints, ttl=plan.project.checkpointer.ttl),
        Cleanup(pool=api_pool, settings=plan.settings, wakeups=parts.wakeups),
        StoreSweep(store=parts.store),
        CronScheduler(pool=api_pool, graphs=plan.graphs, runs=state.runs),
        parts.sender,
    )


def _shutdown(plan: Plan, parts: Parts) -> Shutdown:
    return Shutdown(
        settings=plan.settings,
        signals=parts.signals,
        slots=parts.slots,
        executions=parts.executions,
        commits=parts.commits,
        pool=parts.pool,
        lease=parts.lease,
    )


async def _announce(plan: Plan, parts: Parts) -> None:
    """Say that this process is there, and that its graphs can be run."""
    async with parts.pool.connection() as conn:
        await workers.create(conn, parts.lease.worker_id, plan.graphs)
        await assistants.ensure_system(conn, {name: graph.description for name, graph in plan.graphs.items()})
        others = await threads.other_projects(conn)
    log.info("project served", extra={"project": parts.pool.project_id, "graphs": sorted(plan.graphs)})
    if others:
        log.warning(
            "the database holds threads of other projects and none of this one: THREADKEEP_PROJECT chooses one",
            extra={"project": parts.pool.project_id, "other_projects": others},
        )
