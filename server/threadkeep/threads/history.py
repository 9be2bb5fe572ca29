"""History: the states of a thread (time travel), read through its graph, because only the graph can interpret its channels.

A read takes no slot. It first reads the sizes of the checkpoints. So an answer above the limit is refused before large
values are in memory. Time travel is a run or an update from one of these states.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot
from langgraph_sdk.runtime import AccessContext

from threadkeep.base import json
from threadkeep.base.answer_budget import AnswerBudget
from threadkeep.base.problems import NotFound
from threadkeep.graphs import Graph, LoadedGraph, Tenant, is_local
from threadkeep.persistence.checkpointer import Checkpointer
from threadkeep.postgres.pool import Pool
from threadkeep.runs.snapshots import reading, snapshot_of, thread_state
from threadkeep.tables import checkpoint_sizes
from threadkeep.tables.checkpoint_sizes import CheckpointSize, Listing
from threadkeep.tables.threads import Thread

PIECE_BYTES: Final = 1024 * 1024
"""The most bytes of a history that are read at once, unless one state is larger."""

EMPTY = StateSnapshot(
    values={}, next=(), config={}, metadata=None, created_at=None, parent_config=None, tasks=(), interrupts=()
)


Graphs: TypeAlias = Mapping[str, LoadedGraph]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadParts:
    """The objects that reads, changes and deletions of threads use."""

    pool: Pool
    graphs: Graphs
    checkpoints: Checkpointer
    answer_bytes: int
    """The most bytes in an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A checkpoint of a thread, in the namespace of a subgraph or of the graph itself. Without an id, the newest one."""

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""


LATEST = CheckpointRef()


State: TypeAlias = dict[str, object]
"""A ThreadState of langgraph_sdk.schema."""


class ReadState(NamedTuple):
    """A state, and the number of bytes that were read for it."""

    state: State
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRequest:
    """Selects at most `limit` states that are older than the checkpoint `before` and contain `metadata`."""

    limit: int
    before: str | None = None
    metadata: Mapping[str, Any] | None = None
    at: CheckpointRef = LATEST

    @property
    def listing(self) -> Listing:
        """The selection of the checkpoints of these states."""
        return Listing(
            limit=self.limit,
            namespace=self.at.checkpoint_ns,
            checkpoint_id=self.at.checkpoint_id,
            before=self.before,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of states, each as JSON."""

    states: Sequence[bytes]
    next: str | None
    """If the byte limit cut the page: the `before` of the next page."""


async def get_state(
    parts: ThreadParts, tenant: Tenant, thread: Thread, at: CheckpointRef = LATEST, *, subgraphs: bool = False
) -> ReadState:
    """The ThreadState at a checkpoint, empty if there is none. AnswerTooLarge before a large state is read."""
    loaded = thread_graph(parts.graphs, thread)
    if loaded is None:
        return ReadState(thread_state(EMPTY), 0)
    config = checkpoint_config(thread.thread_id, at)
    budget = AnswerBudget(parts.answer_bytes)
    async with open_graph(loaded, tenant, thread.thread_id) as graph:
        # The states of a RemoteGraph are on another server, so their sizes are not known.
        if is_local(graph):
            await _take_state(budget, parts, tenant, thread, at)
        state = thread_state(await snapshot_of(graph, config))
        if subgraphs and (namespaces := _waiting_subgraphs(state)):
            if is_local(graph):
                await _take_subgraphs(budget, parts, tenant, thread, namespaces)
            # A second read, because only the first one shows which subgraphs wait, and how large their states are.
            state = thread_state(await snapshot_of(graph, config, subgraphs=True))
    return ReadState(state, budget.used)


async def _take_state(
    budget: AnswerBudget, parts: ThreadParts, tenant: Tenant, thread: Thread, at: CheckpointRef
) -> None:
    listing = Listing(limit=1, namespace=at.checkpoint_ns, checkpoint_id=at.checkpoint_id)
    async with parts.pool.connection(tenant.filters) as conn:
        sizes = await checkpoint_sizes.sizes(conn, tenant.filters, thread.thread_id, listing)
    for checkpoint in sizes:
        budget.take_all(checkpoint.bytes, "the state")


async def _take_subgraphs(
    budget: AnswerBudget, parts: ThreadParts, tenant: Tenant, thread: Thread, namespaces: Sequence[str]
) -> None:
    async with parts.pool.connection(tenant.filters) as conn:
        size = await checkpoint_sizes.newest_below(conn, tenant.filters, thread.thread_id, namespaces)
    budget.take_all(size, "the state with its subgraphs")


def _waiting_subgraphs(state: State) -> list[str]:
    """The namespaces of the subgraphs whose states `subgraphs=True` adds."""
    tasks = cast("list[Mapping[str, Any]]", state["tasks"])
    return [task["checkpoint"]["checkpoint_ns"] for task in tasks if task["checkpoint"]]


async def page(
    parts: ThreadParts, tenant: Tenant, thread: Thread, request: HistoryRequest, render: Callable[[State], object]
) -> Page:
    """A page of ThreadStates of all branches, the newest first, each converted by `render`.

    AnswerTooLarge if the first one does not fit. States are read and encoded in pieces, until one does not fit. So a
    long history of large states is never in memory at once.
    """
    loaded = thread_graph(parts.graphs, thread)
    if loaded is None:
        return Page(states=[], next=None)
    answer = _Answer(parts.answer_bytes, render)
    async with open_graph(loaded, tenant, thread.thread_id) as graph:
        if not is_local(graph):
            # The sizes are unknown, so the page is one piece.
            await answer.read(graph, thread, request, Piece(request.limit, 0))
            return answer.page
        async with parts.pool.connection(tenant.filters) as conn:
            sizes = await checkpoint_sizes.sizes(conn, tenant.filters, thread.thread_id, request.listing)
        for piece in answer.pieces(sizes):
            await answer.read(graph, thread, request, piece)
    return answer.page


class Piece(NamedTuple):
    """Checkpoints that are read together."""

    checkpoints: int
    bytes: int


class _Answer:
    """Collects the states of a page."""

    def __init__(self, limit: int, render: Callable[[State], object]) -> None:
        # Two budgets, because the JSON of a state may be larger than its stored bytes.
        self._stored, self._encoded = AnswerBudget(limit), AnswerBudget(limit)
        self._render = render
        self._states: list[bytes] = []
        self._last: str | None = None

    @property
    def page(self) -> Page:
        """The page with the states so far."""
        is_cut = self._stored.is_cut or self._encoded.is_cut
        return Page(states=self._states, next=self._last if is_cut else None)

    def pieces(self, sizes: Iterable[CheckpointSize]) -> list[Piece]:
        """The checkpoints that fit, in pieces of at most `PIECE_BYTES`, or of one larger checkpoint."""
        pieces: list[Piece] = []
        for checkpoint in sizes:
            if not self._stored.take(checkpoint.bytes, f"the state at checkpoint {checkpoint.checkpoint_id}"):
                break
            if pieces and pieces[-1].bytes + checkpoint.bytes <= PIECE_BYTES:
                pieces[-1] = Piece(pieces[-1].checkpoints + 1, pieces[-1].bytes + checkpoint.bytes)
            else:
                pieces.append(Piece(1, checkpoint.bytes))
        return pieces

    async def read(self, graph: Graph, thread: Thread, request: HistoryRequest, piece: Piece) -> None:
        """Read the next piece and encode its states. Does nothing after a state did not fit."""
        if self._encoded.is_cut:
            return
        older_than = self._last or request.before
        history = graph.aget_state_history(
            checkpoint_config(thread.thread_id, request.at),
            filter=dict(request.metadata or {}),
            before=checkpoint_config(thread.thread_id, CheckpointRef(checkpoint_id=older_than)) if older_than else None,
            limit=piece.checkpoints,
        )
        with reading():
            # `_encode` stops early at a state that does not fit. `aclosing` then ends the query at once.
            async with aclosing(cast("AsyncGenerator[StateSnapshot]", history)) as snapshots:
                await self._encode(snapshots, piece)

    async def _encode(self, snapshots: AsyncGenerator[StateSnapshot], piece: Piece) -> None:
        async for snapshot in snapshots:
            checkpoint_id = snapshot.config.get("configurable", {}).get("checkpoint_id")
            encoded = await json.dumps_apart(self._render(thread_state(snapshot)), size=piece.bytes)
            if not self._encoded.take(len(encoded), f"the state at checkpoint {checkpoint_id}"):
                return
            self._states.append(encoded)
            self._last = checkpoint_id


def checkpoint_config(thread_id: UUID, at: CheckpointRef = LATEST) -> RunnableConfig:
    """The config that selects a checkpoint of the thread."""
    configurable = {"thread_id": str(thread_id), "checkpoint_ns": at.checkpoint_ns}
    if at.checkpoint_id:
        configurable["checkpoint_id"] = at.checkpoint_id
    return {"configurable": configurable}


def thread_graph(graphs: Graphs, thread: Thread) -> LoadedGraph | None:
    """The graph of the thread's last run. None before the first run, NotFound if this process does not serve it."""
    graph_id = cast("object", thread.metadata.load().get("graph_id"))
    return require_graph(graphs, graph_id) if graph_id else None


def require_graph(graphs: Graphs, graph_id: object) -> LoadedGraph:
    """The graph with a name from a client. NotFound if there is none."""
    loaded = graphs.get(graph_id) if isinstance(graph_id, str) else None
    if loaded is None:
        raise NotFound(f"Graph {str(graph_id)[:100]!r} not found. Expected one of: {sorted(graphs)}")
    return loaded


@asynccontextmanager
async def open_graph(
    loaded: LoadedGraph, tenant: Tenant, thread_id: UUID, access: AccessContext = "threads.read"
) -> AsyncGenerator[Graph]:
    """Open the graph to read or change a thread without a run."""
    async with loaded.open(checkpoint_config(thread_id), durable=True, access=access, tenant=tenant) as graph:
        yield graph
