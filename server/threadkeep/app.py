"""The application: connects settings, graphs and all services to a Starlette application.

Anything that cannot be loaded stops the start here, before a resource is opened. The lifespan opens the shared resources
in the order of their dependencies, and closes them in reverse order.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio
from langgraph.checkpoint.serde.base import SerializerProtocol
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from threadkeep import sdk_cache
from threadkeep.api import loopback, mount
from threadkeep.api.a2a.push_sender import render_task
from threadkeep.api.agents.message_graphs import MessageGraphs
from threadkeep.api.console_files import ConsoleFile, read_files
from threadkeep.api.errors import EXCEPTION_HANDLERS
from threadkeep.api.mcp.surface import McpSurface
from threadkeep.api.middleware import RequestMiddleware
from threadkeep.api.operation import STATE, ApiDocs, AppState, Operation
from threadkeep.api.ops import docs, metrics
from threadkeep.api.ops.scrape import MetricsExporter
from threadkeep.api.request_shares import RequestShares
from threadkeep.api.routes import CONSOLE, SOCKETS, TABLE
from threadkeep.auth import Authenticator, loading
from threadkeep.auth.presence import Presence
from threadkeep.base.fair_limiter import FairLimiter, quarter
from threadkeep.base.metric_sums import Siblings
from threadkeep.base.metrics import Metrics
from threadkeep.base.signals import ProcessSignals
from threadkeep.base.tracing import Tracing
from threadkeep.base.tracing import open_tracing as opened_tracing
from threadkeep.duties.cleanup import Cleanup
from threadkeep.duties.cron_scheduler import CronScheduler
from threadkeep.duties.heartbeat import LeaseReplacement, heartbeat
from threadkeep.duties.lease_reaper import LeaseReaper
from threadkeep.duties.periodic import Duty, repeat
from threadkeep.duties.shutdown import Shutdown
from threadkeep.duties.store_items import StoreSweep, store_opener
from threadkeep.duties.watchdog import LoopLag, watchdog
from threadkeep.duties.webhooks import WebhookSender, webhook_sender
from threadkeep.duties.worker import CancelledRuns, UnservedRuns, Worker
from threadkeep.graphs import LoadedGraph
from threadkeep.persistence import encryption, group_commit
from threadkeep.persistence.checkpointer import Checkpointer
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.persistence.project_types import ProjectTypes
from threadkeep.persistence.serializer import Serializer
from threadkeep.persistence.store import Store, StoreLimits
from threadkeep.postgres import pool, session, tenancy
from threadkeep.postgres.listen import NotificationHub, polling, run_listener
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.session import Pooler
from threadkeep.project import Project, builtin_project, identity
from threadkeep.runs import webhook_policy
from threadkeep.runs.assistants import AssistantCache
from threadkeep.runs.event_recorder import EventRecorder, FollowedRuns, recording
from threadkeep.runs.execution import Executions
from threadkeep.runs.executor import Executor
from threadkeep.runs.follow import Follower
from threadkeep.runs.idempotency import IdempotencyKeys
from threadkeep.runs.isolation import isolate_tasks
from threadkeep.runs.lease import Lease
from threadkeep.runs.quotas import Quotas
from threadkeep.runs.service import RunService
from threadkeep.runs.slots import Slots
from threadkeep.runs.webhook_policy import WebhookPolicy
from threadkeep.settings import Settings, environment
from threadkeep.tables import TENANT_TABLES, assistants, run_creation, threads, workers
from threadkeep.tables.run_creation import RunCreator
from threadkeep.tables.threads import Ttl
from threadkeep.threads.change_stream import ChangeFeed
from threadkeep.threads.history import ThreadParts
from threadkeep.threads.retention import ThreadExpiry

log = logging.getLogger(__name__)

MIN_NODE_THREADS: Final = 32
"""Smallest number of threads for sync nodes. A run may execute several of them at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """All that was read and loaded before the resources are opened."""

    settings: Settings
    uri: str
    graphs: Mapping[str, LoadedGraph]
    project: Project
    open_store: Callable[[Pool], Store]
    serializer: Serializer
    webhooks: WebhookPolicy
    docs: ApiDocs
    metrics: Metrics
    metrics_guarded: bool
    tracing: Tracing | None
    console: Mapping[str, ConsoleFile]
    auth: loading.AuthConfig
    custom_app: Starlette | None
    """The project's own application (`http.app`)."""
    served: Sequence[Operation]
    """The operations and the pages of the console."""
    siblings: Siblings | None = None
    """The other processes on the same port."""

    @property
    def executed_graphs(self) -> Sequence[str]:
        """The graphs whose runs this process executes: all, or none in the role `api`."""
        return tuple(self.graphs) if self.settings.executes_runs else ()

    @property
    def run_slots(self) -> int:
        """The number of graphs that run at once in this process."""
        return self.settings.run_slots if self.settings.executes_runs else 0

    @property
    def direct_uri(self) -> str:
        """The database without a transaction pooler, for LISTEN and the heartbeat."""
        return self.settings.database_direct_uri or self.uri

    @property
    def thread_ttl(self) -> Ttl | None:
        """The TTL of new threads for which the client sets none, from `checkpointer.ttl`."""
        ttl = self.project.checkpointer.ttl
        return Ttl(strategy=ttl.strategy, minutes=ttl.default_ttl) if ttl and ttl.default_ttl else None

    @property
    def serde(self) -> SerializerProtocol:
        """The serializer of checkpoints. It encrypts them if there are keys."""
        return encryption.encrypted_serializer(self.serializer, self.settings.aes_keys)


def strict_serializer(project: Project) -> Serializer:
    """Return the serializer, which creates only allowed types when it loads a checkpoint.

    These are the types of LangGraph, of the project, of each graph's state, and those in `checkpointer.serde`.
    """
    serde = project.checkpointer.serde
    return Serializer(
        types=ProjectTypes.of(project),
        allowed_json_modules=serde.allowed_json_modules,
        allowed_msgpack_modules=serde.allowed_msgpack_modules,
    )


def _store_limits(settings: Settings) -> StoreLimits:
    return StoreLimits(
        item_bytes=settings.max_channel_bytes, items_per_principal=settings.max_store_items_per_principal
    )


def create_app(
    settings: Settings,
    uri: str,
    graphs: Mapping[str, LoadedGraph],
    project: Project | None = None,
    *,
    siblings: Siblings | None = None,
) -> Starlette:
    """Return the application that serves `graphs` with the migrated Postgres at `uri`.

    `project` configures `http`, `store`, `checkpointer` and `webhooks`. `siblings` are the other processes on its port.
    Raise StartupError if something in the project cannot be loaded.
    """
    project = project or builtin_project()
    if settings.project is None:
        # Tests and `dev` come here without `prepare`, which sets the project otherwise.
        settings = settings.model_copy(update={"project": identity(project)})
    config = _app_config(settings, uri, graphs, project, siblings)
    return Starlette(
        routes=mount.mount_routes(project.http, to_routes(config.served), config.custom_app),
        middleware=_middleware(config),
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=_lifespan(config),
    )


def _app_config(
    settings: Settings, uri: str, graphs: Mapping[str, LoadedGraph], project: Project, siblings: Siblings | None
) -> AppConfig:
    """Load all that the project and the settings name. Raise StartupError."""
    auth, serializer = loading.load_auth(settings, project), strict_serializer(project)
    mount.check_http_config(project.http, has_authenticator=auth.auth_type != "none")
    custom_app = mount.load_custom_app(project)
    described = described_operations(settings, project)
    console = read_files(project.http)
    # The console's routes are pages and not operations, so the OpenAPI document has none of them.
    served = [*described, *(CONSOLE if console else ())]
    return AppConfig(
        settings=settings,
        uri=uri,
        graphs=graphs,
        project=project,
        open_store=store_opener(project, _store_limits(settings), serializer),
        serializer=serializer,
        webhooks=webhook_policy.webhook_policy(project, environment(project.webhooks.env_prefix)),
        docs=_docs(project, auth, described, custom_app),
        auth=auth,
        metrics=Metrics(graphs, [(operation.method, operation.path) for operation in served]),
        metrics_guarded=metrics.requires_authentication(settings, has_authenticator=auth.auth_type != "none"),
        tracing=opened_tracing(environment("OTEL_")),
        console=console,
        custom_app=custom_app,
        served=served,
        siblings=siblings,
    )


def _docs(
    project: Project, auth: loading.AuthConfig, described: tuple[Operation, ...], custom_app: Starlette | None
) -> ApiDocs:
    return docs.build_docs(
        docs.Described(
            served=described,
            prefix=mount.mount_prefix(project.http),
            kind=auth.auth_type,
            auth=project.auth,
            app=custom_app,
            reserved=mount.ALWAYS_SERVED,
        )
    )


def _middleware(config: AppConfig) -> list[Middleware]:
    """Return the middleware, the outermost first."""
    http, settings = config.project.http, config.settings
    return [
        # Outermost, so that a page can read the errors of all the others.
        mount.cors_policy(http, settings.host),
        Middleware(RequestMiddleware, metrics=config.metrics, tracing=config.tracing),
        *mount.role_guard(http, settings),
        mount.page_guard(http, settings, config.served, authenticates=config.auth.auth_type != "none"),
    ]


def _lifespan(config: AppConfig) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return the function that opens all resources for as long as the application is served."""
    project = config.project

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        async with (
            loopback.opened(app, mount.mount_prefix(project.http)) as loopback_server,
            sdk_cache.opened(),
            mount.custom_lifespan(config.custom_app, project.root) as custom_state,
            open_state(config) as state,
        ):
            # uvicorn's signal handler has only the application, so it finds the events there.
            app.state.stopping, app.state.hurried = state.signals.stopping, state.signals.hurried
            app.state.executions = state.runs.executor.executions
            loopback_server.state = {**custom_state, STATE: state}
            yield loopback_server.state

    return lifespan


def described_operations(settings: Settings, project: Project) -> tuple[Operation, ...]:
    """Return the operations of the API that this project serves."""
    return tuple(
        operation
        for operation in mount.enabled_operations(project.http, TABLE)
        if operation.path != "/metrics" or metrics.serves_metrics(settings)
    )


def warm_up(settings: Settings, project: Project) -> None:
    """Make what is the same in all servers of a project, in a parent from which they are forked."""
    docs.warm_up(described_operations(settings, project), mount.mount_prefix(project.http))


def to_routes(served: Sequence[Operation]) -> list[BaseRoute]:
    """Return the routes of the operations, and of the sockets on their paths."""
    paths = {operation.path for operation in served}
    sockets = [WebSocketRoute(socket.path, socket.__call__) for socket in SOCKETS if socket.path in paths]
    # The router compares routes in order, so the requests that run a graph come first. No other path fits theirs.
    ordered = sorted(served, key=lambda operation: operation.kind != "run")
    routes = [
        Route(operation.route_path or operation.path, operation, methods=[operation.method]) for operation in ordered
    ]
    return [*routes, *sockets]


@asynccontextmanager
async def open_state(plan: AppConfig) -> AsyncGenerator[AppState]:
    """Open all resources that requests and background duties share, for the length of the block."""
    async with opened(plan) as parts:
        # Behind a pooler that shares sessions, settings of the role replace those that a session would set.
        await pool.check_sessions(parts.pool)
        await pool.check_max_connections(parts.pool, plan.settings)
        authenticates = parts.authenticator is not None
        await tenancy.enable_row_security(parts.pool, parts.runs_pool, tables=TENANT_TABLES, needed=authenticates)
        # Before the heartbeat and the duties, which update the row of this process.
        await _announce(plan, parts)
        state = _state(plan, parts)
        if plan.siblings is not None:
            # The supervisor may ask from here on. Before, a child has no values to tell.
            plan.siblings.provide(state.metrics_exporter.values)
        parts.sender.task_renderer = partial(render_task, parts.pool, plan.settings.aes_keys)
        shutdown = _shutdown(plan, parts)
        lag = LoopLag(plan.metrics)
        with (
            isolate_tasks(),
            heartbeat(
                plan.direct_uri,
                parts.lease,
                plan.settings.lease_s,
                parts.wakeups,
                # Behind a transaction pooler a session belongs to others between two statements.
                own_session=plan.settings.database_direct_uri is not None or parts.pool.pooler != "transaction",
            ),
            watchdog(lag),
        ):
            async with (
                metrics.serve_metrics_port(state.metrics_exporter, plan.settings),
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(shutdown.drain_on_signal, name="shutdown")
                if not plan.project.http.disable_openai:
                    # In the background: a slow factory must not delay the start.
                    tasks.start_soon(state.message_graphs.look_at_all, name="message graphs")
                for duty in (lag, *_duties(plan, parts, state)):
                    tasks.start_soon(repeat, duty, parts.wakeups, name=type(duty).__name__)
                yield state
                # The duties end before the drain, so that none claims another run meanwhile.
                tasks.cancel_scope.cancel()
            await shutdown.drain()
            # The pools close after this block. A run that still writes needs its connections until then.
            await parts.executions.all_ended()
    if plan.tracing is not None:
        # Last, because the end of a run is a span too. It may wait for a collector that does not answer.
        await plan.tracing.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenResources:
    """The resources that the lifespan opened: connections, writers and the registries of this process."""

    pool: Pool
    """Connections of the API and the queue."""
    runs_pool: Pool
    """Connections of running graphs."""
    authenticator: Authenticator | None
    wakeups: NotificationHub
    run_creator: RunCreator
    group_commit: GroupCommit
    recorder: EventRecorder
    sender: WebhookSender
    checkpoints: Checkpointer
    store: Store
    slots: Slots
    presence: Presence
    executions: Executions
    lease: Lease
    signals: ProcessSignals = field(default_factory=ProcessSignals)


@asynccontextmanager
async def opened(plan: AppConfig) -> AsyncGenerator[OpenResources]:
    """Open the resources for the length of the block."""
    settings, executions, lease, presence = plan.settings, Executions(), Lease(), Presence()
    _give_nodes_threads(settings.run_slots)
    pooler = await _pooler(plan)
    # LISTEN needs a session of its own, which such a pooler does not give.
    polls = pooler == "transaction" and settings.database_direct_uri is None
    async with (
        pool.open_api_pool(settings, plan.uri, pooler) as api_pool,
        pool.open_runs_pool(settings, plan.uri, pooler) as runs_pool,
        # After the pool, in which API keys are read.
        plan.auth.open(api_pool) as authenticator,
        polling() if polls else run_listener(plan.direct_uri) as wakeups,
        run_creation.open_run_creator(api_pool, presence.is_alone) as run_creator,
        group_commit.open_group_commit(runs_pool, plan.metrics.observe_group_commit) as commits,
        recording(api_pool, executions, lease) as recorder,
        webhook_sender(api_pool, wakeups, plan.webhooks, presence.is_alone) as sender,
    ):
        yield OpenResources(
            pool=api_pool,
            runs_pool=runs_pool,
            authenticator=authenticator,
            wakeups=wakeups,
            run_creator=run_creator,
            group_commit=commits,
            recorder=recorder,
            sender=sender,
            checkpoints=Checkpointer(runs_pool, commits, plan.serde, channel_bytes=settings.max_channel_bytes),
            store=plan.open_store(runs_pool),
            slots=_slots(plan, presence),
            presence=presence,
            executions=executions,
            lease=lease,
        )


async def _pooler(plan: AppConfig) -> Pooler:
    """Return the kind of pooler in front of Postgres. Log a warning if it makes the server slower."""
    direct = plan.settings.database_direct_uri is not None
    # A direct URI means that the other one is a pooler, so nothing has to be detected.
    pooler = "transaction" if direct else await session.detect_pooler(plan.uri)
    if pooler == "transaction":
        log.warning(
            "Postgres is behind a transaction pooler: statements are not prepared",
            extra={"wake_ups": "LISTEN at DATABASE_DIRECT_URI" if direct else "polling, which is slower"},
        )
    return pooler


def _give_nodes_threads(run_slots: int) -> None:
    """Give the loop's default executor enough threads, because LangGraph runs sync nodes in it.

    By default it has four threads more than cores, which limits graphs that only wait. It is never shut down, because
    the loop may belong to another server too, and a node that does not end must not keep the process alive.
    """
    threads = ThreadPoolExecutor(max(MIN_NODE_THREADS, 2 * run_slots), thread_name_prefix="node")
    asyncio.get_running_loop().set_default_executor(threads)


def _slots(plan: AppConfig, presence: Presence) -> Slots:
    """Return the slots of this process, which principals share."""
    settings = plan.settings
    reserve = quarter(plan.run_slots) if settings.slot_reserve is None else settings.slot_reserve
    limiter = FairLimiter(plan.run_slots, reserve=reserve, max_waiting=settings.max_waiting, is_alone=presence.is_alone)
    return Slots(limiter, timeout_s=settings.queue_timeout_s, waited=plan.metrics.admission_wait.observe)


def _state(plan: AppConfig, parts: OpenResources) -> AppState:
    """Bind the graphs to the checkpointer and the store, and return the state for endpoints."""
    for graph in plan.graphs.values():
        graph.bind(checkpointer=parts.checkpoints, store=parts.store)
    runs = _run_service(plan, parts)
    return AppState(
        settings=plan.settings,
        project=plan.project,
        docs=plan.docs,
        authenticator=parts.authenticator,
        auth_type=plan.auth.auth_type,
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
        changes=ChangeFeed(parts.pool, parts.runs_pool, parts.wakeups),
        store=parts.store,
        slots=parts.slots,
        quotas=runs.quotas,
        shares=RequestShares(plan.settings, parts.presence.is_alone),
        assistants=runs.assistants,
        runs=runs,
        message_graphs=MessageGraphs(plan.graphs),
        mcp=McpSurface(settings=plan.settings, pool=parts.pool),
        metrics_exporter=MetricsExporter(
            pools={"api": parts.pool, "runs": parts.runs_pool},
            slots=parts.slots,
            abandoned=runs.executor.abandoned,
            lease=parts.lease,
            metrics=plan.metrics,
            siblings=plan.siblings,
            requires_authentication=plan.metrics_guarded,
        ),
        console=plan.console,
    )


def _run_service(plan: AppConfig, parts: OpenResources) -> RunService:
    """Return the service that starts all runs."""
    settings = plan.settings
    executor = Executor(
        settings=settings,
        graphs=plan.graphs,
        pool=parts.pool,
        group_commit=parts.group_commit,
        recorder=parts.recorder,
        notifications=parts.wakeups,
        lease=parts.lease,
        metrics=plan.metrics,
        tracing=plan.tracing,
        executions=parts.executions,
    )
    return RunService(
        pool=parts.pool,
        slots=parts.slots,
        run_creator=parts.run_creator,
        executor=executor,
        follower=Follower(pool=parts.pool, wakeups=parts.wakeups, executions=parts.executions, signals=parts.signals),
        assistants=AssistantCache(parts.pool, plan.graphs),
        quotas=Quotas(settings, parts.pool, parts.executions, parts.presence),
        keys=IdempotencyKeys(pool=parts.pool, lease=parts.lease, settings=settings),
        webhooks=plan.webhooks,
        thread_ttl=plan.thread_ttl,
        ephemeral_ttl_s=settings.keep_stateless_s,
        metadata_bytes=settings.metadata_bytes,
        batch_bytes=settings.answer_bytes,
        max_recursion=settings.max_recursion,
        executes_runs=settings.executes_runs,
    )


def _duties(plan: AppConfig, parts: OpenResources, state: AppState) -> Sequence[Duty]:
    """Return the background duties of this process."""
    api_pool, executions, lease = parts.pool, parts.executions, parts.lease
    reaper = LeaseReaper(
        pool=api_pool, executions=executions, lease=lease, settings=plan.settings, metrics=plan.metrics
    )
    replacement = LeaseReplacement(
        pool=api_pool,
        lease=lease,
        graph_ids=plan.executed_graphs,
        run_slots=plan.run_slots,
        executions=executions,
        reaper=reaper,
    )
    return (
        replacement,
        *_run_duties(plan, parts, state),
        UnservedRuns(pool=api_pool, metrics=plan.metrics),
        reaper,
        ThreadExpiry(pool=api_pool, checkpoints=parts.checkpoints, ttl=plan.project.checkpointer.ttl),
        Cleanup(pool=api_pool, settings=plan.settings, wakeups=parts.wakeups),
        StoreSweep(store=parts.store),
        CronScheduler(pool=api_pool, graphs=plan.graphs, runs=state.runs),
        state.changes,
        parts.sender,
    )


def _run_duties(plan: AppConfig, parts: OpenResources, state: AppState) -> Sequence[Duty]:
    """Return the duties of a process that runs graphs. The role `api` has none of them."""
    if not plan.settings.executes_runs:
        return ()
    worker = Worker(
        pool=parts.pool,
        graph_ids=plan.executed_graphs,
        slots=parts.slots,
        executor=state.runs.executor,
        lease=parts.lease,
        presence=parts.presence,
        signals=parts.signals,
        metrics=plan.metrics,
        wakeups=parts.wakeups,
    )
    return (
        worker,
        CancelledRuns(pool=parts.pool, executions=parts.executions, lease=parts.lease),
        FollowedRuns(pool=parts.pool, executions=parts.executions, recorder=parts.recorder),
    )


def _shutdown(plan: AppConfig, parts: OpenResources) -> Shutdown:
    return Shutdown(
        settings=plan.settings,
        signals=parts.signals,
        slots=parts.slots,
        executions=parts.executions,
        commits=parts.group_commit,
        pool=parts.pool,
        lease=parts.lease,
    )


async def _announce(plan: AppConfig, parts: OpenResources) -> None:
    """Register this process as a worker, and the graphs that it serves."""
    async with parts.pool.connection() as conn:
        await workers.create(conn, parts.lease.worker_id, plan.executed_graphs, run_slots=plan.run_slots)
        await assistants.ensure_system_assistants(
            conn, {name: graph.description for name, graph in plan.graphs.items()}
        )
        other_projects = await threads.other_projects(conn)
        # After `create`, so that the graphs of this process count.
        unserved = set(plan.graphs) - await workers.executed_graphs(conn)
    served = {"project": parts.pool.project_id, "graphs": sorted(plan.graphs), "role": plan.settings.role}
    log.info("project served", extra=served)
    if unserved:
        log.warning(
            "no live process runs these graphs: their runs wait in the queue until one of role worker or all starts",
            extra={"graphs": sorted(unserved)},
        )
    if other_projects:
        log.warning(
            "the database has threads of other projects and none of this one: THREADKEEP_PROJECT chooses the project",
            extra={"project": parts.pool.project_id, "other_projects": other_projects},
        )
