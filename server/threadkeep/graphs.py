"""Graphs: what `langgraph.json` names, imported once and handed to each run with the server's checkpointer and store.

Static graphs are joined with these when they are bound, once; a factory is called for each use, in the event loop, so
a synchronous one that blocks stops every other run while it lasts. Types of LangGraph that are loose end here.
"""

import copy
import functools
import inspect
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from langchain_core.runnables import Runnable, RunnableConfig

# This one is private, and so are the two runtimes: `with_config` drops a graph's list of its own state types, and a
# factory declares its runtime by the public alias `ServerRuntime`, which can't be called.
from langgraph._internal._serde import build_serde_allowlist
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.pregel.remote import RemoteGraph
from langgraph.store.base import BaseStore
from langgraph_sdk.runtime import AccessContext, _ExecutionRuntime, _ReadRuntime  # pyright: ignore[reportPrivateUsage]

from threadkeep.auth.principal import auth_configurable
from threadkeep.base.problems import StartupError
from threadkeep.context_schema import accepted_keys, is_constructed, runtime_class
from threadkeep.importing import import_target, reason
from threadkeep.persistence.checkpointer import Checkpointer
from threadkeep.persistence.store import Store
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.project import Project
from threadkeep.remote_graph import ServedRemoteGraph

log = logging.getLogger(__name__)

Graph: TypeAlias = Pregel[Any, Any, Any, Any]
"""A graph that can run. A RemoteGraph passes for one: it keeps its threads elsewhere and gets no checkpointer."""

CheckpointSaver: TypeAlias = BaseCheckpointSaver[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """On whose behalf a graph is opened, beside its config."""

    space: str | None = None
    """The part of the store that the graph works in (`auth/ownership.py`); None: the whole store."""
    filters: Filters = UNRESTRICTED
    """Row-level security of what the graph reads; a run is the server's own work, so it has none."""
    user: Mapping[str, Any] | None = None
    """The caller, for a factory; the config of a run has the user already."""
    principal: str | None = None
    """The identity for which items that the graph puts into the store are counted; None: they are not."""

    @classmethod
    def of(cls, user: Mapping[str, Any] | None, filters: Filters) -> "Tenant":
        """A caller who looks at a graph or changes a state."""
        principal = None if user is None else user["identity"]
        return cls(space=filters.store_prefix, filters=filters, user=user, principal=principal)

    @property
    def has_store_of_its_own(self) -> bool:
        """Whether the graph works with another store than the server's."""
        return self.space is not None or self.principal is not None or self.filters.restriction is not None


SERVER: Final = Tenant()
"""Nobody: authentication is off, or the server opens the graph for itself."""

FactoryParameter: TypeAlias = Literal["config", "runtime"]

STORE_COPIES: Final = 500
"""Principals of runs for whom a graph's copy with their part of the store is kept."""

CONFIG_ANNOTATIONS = frozenset({"_empty", "Any", "Dict", "Mapping", "dict"})
"""Names in the annotation of an only parameter that leave it to be the config."""

RUNTIME_ANNOTATIONS = frozenset({"ServerRuntime", "_ExecutionRuntime", "_ReadRuntime"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFactory:
    """A function that makes a graph or the context manager of one, and what it is to be called with."""

    call: Callable[..., Any]
    parameters: Mapping[str, FactoryParameter]
    """By parameter; in the order of the signature."""
    positional: frozenset[str]
    """Those of `wants` that can't be given by name."""
    context_type: type[Any] | None
    """`C` of a parameter annotated `ServerRuntime[C]`."""


class Opening(NamedTuple):
    """For what, and for whom, a factory makes a graph."""

    access: AccessContext
    context: object
    tenant: Tenant


class LoadedGraph:
    """One entry of `graphs`. Until it is bound it has neither checkpointer nor store."""

    def __init__(self, graph_id: str, source: Graph | GraphFactory, *, description: str | None = None) -> None:
        self.graph_id = graph_id
        self.description = description
        self._source = source
        self._told = False
        self.bind(checkpointer=None, store=None)

    def bind(self, *, checkpointer: CheckpointSaver | None, store: BaseStore | None) -> None:
        """Give the graph the server's checkpointer and store, in place of any that it was compiled with."""
        self._checkpointer = checkpointer
        self._store = store
        self._durable = self._stateless = None
        self._of_principal = functools.lru_cache(STORE_COPIES)(self._scoped)
        if not isinstance(self._source, GraphFactory):
            self._durable = self._join(self._source, durable=True)
            self._stateless = self._join(self._source, durable=False)

    def open(
        self,
        config: RunnableConfig,
        *,
        durable: bool,
        access: AccessContext = "threads.create_run",
        context: object = None,
        tenant: Tenant = SERVER,
    ) -> AbstractAsyncContextManager[Graph]:
        """The graph for one use on behalf of `tenant`; with `durable=False` it has no checkpointer, but still the store.

        For the server, a static graph is the same object each time. A factory is called with `config` or a runtime,
        whatever it asks for; what it raises comes through, and TypeError where it makes no graph.
        """
        ready = self._durable if durable else self._stateless
        if ready is None:
            return self._made(config, Opening(access, context, tenant), durable=durable)
        if not tenant.has_store_of_its_own:
            return nullcontext(ready)
        if tenant.filters.restriction is not None:
            return nullcontext(_for_tenant(ready, tenant))
        return nullcontext(self._of_principal(tenant.space, tenant.principal, durable))

    def _scoped(self, space: str | None, principal: str | None, durable: bool) -> Graph:
        """The static graph for the runs of a principal, in a space of the store."""
        ready = self._durable if durable else self._stateless
        return _for_tenant(cast("Graph", ready), Tenant(space=space, principal=principal))

    @asynccontextmanager
    async def _made(self, config: RunnableConfig, opening: Opening, *, durable: bool) -> AsyncGenerator[Graph, None]:
        factory = cast("GraphFactory", self._source)
        if (user := opening.tenant.user) is not None:
            config = {**config, "configurable": {**config.get("configurable", {}), **auth_configurable(user)}}
        try:
            async with AsyncExitStack() as stack:
                made = await self._make(stack, factory, config, self._runtime(factory, config, opening))
                yield _for_tenant(self._join(made, durable=durable), opening.tenant)
        except (SystemExit, KeyboardInterrupt) as left:  # a task that ends by one of these stops the event loop
            raise RuntimeError(f"the factory of graph {self.graph_id} raised {type(left).__name__}") from left

    async def _make(
        self, stack: AsyncExitStack, factory: GraphFactory, config: RunnableConfig, runtime: object
    ) -> Graph:
        given = {name: config if want == "config" else runtime for name, want in factory.parameters.items()}
        args = [value for name, value in given.items() if name in factory.positional]
        made = factory.call(*args, **{name: value for name, value in given.items() if name not in factory.positional})
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            made = await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", made))
        elif isinstance(made, AbstractContextManager):
            made = stack.enter_context(cast("AbstractContextManager[object]", made))
        graph = _as_graph(made)
        if graph is None:
            raise TypeError(f"the factory of graph {self.graph_id} made {_kind(made)}, which is no graph")
        return graph

    def _runtime(self, factory: GraphFactory, config: RunnableConfig, opening: Opening) -> object:
        if "runtime" not in factory.parameters.values():
            return None
        user = config.get("configurable", {}).get("langgraph_auth_user")
        store = cast("BaseStore", _store_of(opening.tenant, self._store))  # None only if the server has no store
        if opening.access != "threads.create_run":
            read: _ReadRuntime[Any] = _ReadRuntime(access_context=opening.access, user=user, store=store)
            return read
        typed = _coerced(opening.context, factory.context_type)
        return _ExecutionRuntime(access_context=opening.access, user=user, store=store, context=typed)

    def _join(self, graph: Graph, *, durable: bool) -> Graph:
        """A shallow copy with the server's checkpointer and store. `Pregel.copy` would lose what is not a parameter."""
        if not is_local(graph):
            return cast("Graph", ServedRemoteGraph.of(cast("RemoteGraph", graph))) if _is_remote(graph) else graph
        joined: Any = copy.copy(graph)
        self._tell_replaced(joined.checkpointer, joined.store)
        joined.checkpointer = None
        joined.context_schema = runtime_class(joined.context_schema)
        joined.store = self._store
        if durable and self._checkpointer is not None:
            joined.checkpointer = self._checkpointer.with_allowlist(state_types(graph))
        return joined

    def _tell_replaced(self, *own: object) -> None:
        names = [type(part).__name__ for part in own if not isinstance(part, bool | None)]
        if names and not self._told:
            log.warning("a graph's own persistence is replaced", extra={"graph_id": self.graph_id, "replaced": names})
            self._told = True


Graphs: TypeAlias = Mapping[str, LoadedGraph]


def load_graphs(project: Project) -> Graphs:
    """Import every graph of the project; StartupError where one can't be. Factories are not called yet."""
    loaded: dict[str, LoadedGraph] = {}
    for graph_id, target in project.graphs.items():
        key = f"graphs.{graph_id}"
        found = import_target(project.root, target.path, key=key)
        where = f"{key}: {target.path}"
        loaded[graph_id] = as_loaded_graph(
            graph_id, found, where=where, description=target.description, root=project.root
        )
    return loaded


def as_loaded_graph(
    graph_id: str, found: object, *, where: str, description: str | None = None, root: Path | None = None
) -> LoadedGraph:
    """What a target named, as a graph or a factory of graphs; StartupError, naming `where`, if it is neither.

    `root` is the project's folder, whose lines an error tells of.
    """
    try:
        graph = _as_graph(found)
        source = _as_factory(found) if graph is None else graph
    except Exception as error:
        log.debug("a graph can't be compiled", extra={"graph_id": graph_id}, exc_info=True)
        raise StartupError(f"{where}: {reason(error, root or Path.cwd())}") from error
    if isinstance(source, str):
        raise StartupError(f"{where}: {source}")
    return LoadedGraph(graph_id, source, description=description)


def state_types(graph: Graph) -> set[tuple[str, ...]]:
    """The types, as `(module, name)`, that checkpoints of a graph and of its subgraphs may hold."""
    whole: Any = graph
    types: set[tuple[str, ...]] = set()
    for part in [whole, *(subgraph for _, subgraph in whole.get_subgraphs(recurse=True) if is_local(subgraph))]:
        schemas = [*part.builder.schemas] if hasattr(part, "builder") else []
        types |= build_serde_allowlist(schemas=[*schemas, part.context_schema], channels=part.channels)
    return types


def _for_tenant(graph: Graph, tenant: Tenant) -> Graph:
    """The graph itself for the server; else a shallow copy, with a checkpointer and a store of the tenant's."""
    if not tenant.has_store_of_its_own or not is_local(graph):
        return graph
    scoped: Any = copy.copy(graph)
    if isinstance(scoped.checkpointer, Checkpointer):
        scoped.checkpointer = scoped.checkpointer.scoped(tenant.filters)
    scoped.store = _store_of(tenant, scoped.store)
    return scoped


def _store_of(tenant: Tenant, store: BaseStore | None) -> BaseStore | None:
    if not isinstance(store, Store):
        return store
    return store.scoped(tenant.space, tenant.filters, principal=tenant.principal)


def is_local(graph: object) -> bool:
    """Whether a graph runs in this process; a RemoteGraph does not."""
    return isinstance(graph, Pregel)


def _is_remote(graph: object) -> bool:
    return isinstance(graph, RemoteGraph)


def _as_graph(found: object) -> Graph | None:
    if isinstance(found, StateGraph):
        return cast("Any", found).compile()
    return cast("Graph", found) if isinstance(found, PregelProtocol) else None


def _as_factory(found: object) -> GraphFactory | str:
    """The factory, or the reason why this can't be one."""
    if not callable(found) or isinstance(found, (type, Runnable)):
        return f"found {_kind(cast('object', found))}, which is neither a graph nor a function that makes one"
    if inspect.isasyncgenfunction(found) or inspect.isgeneratorfunction(found):
        return "found a generator function; decorate it with contextlib.asynccontextmanager or contextmanager"
    parameters = [each for each in _signature(found).parameters.values() if each.kind.name[:3] != "VAR"]
    wants: dict[str, FactoryParameter] = {each.name: want for each in parameters if (want := _want(each)) is not None}
    required = [each for each in parameters if each.name not in wants and each.default is each.empty]
    if len(parameters) == len(required) == 1 and _words(required[0]) & CONFIG_ANNOTATIONS:
        wants[required.pop().name] = "config"
    if required:
        names = ", ".join(each.name for each in required)
        return f"found a function that asks for {names}; a factory gets a RunnableConfig and a ServerRuntime at most"
    return GraphFactory(
        call=found,
        parameters=wants,
        positional=frozenset(each.name for each in parameters if each.kind is each.POSITIONAL_ONLY),
        context_type=next((_context_type(each) for each in parameters if wants.get(each.name) == "runtime"), None),
    )


def _signature(call: Callable[..., object]) -> inspect.Signature:
    """With annotations as types, or all as text where one names what exists for the type checker only."""
    try:
        return inspect.signature(call, eval_str=True)
    except (NameError, AttributeError, TypeError):
        return inspect.signature(call)


def _want(parameter: inspect.Parameter) -> FactoryParameter | None:
    """By annotation, then by name."""
    words = _words(parameter)
    if "RunnableConfig" in words:
        return "config"
    if words & RUNTIME_ANNOTATIONS:
        return "runtime"
    return cast("FactoryParameter", parameter.name) if parameter.name in {"config", "runtime"} else None


def _words(parameter: inspect.Parameter) -> set[str]:
    """The names in an annotation, `_empty` where there is none."""
    annotation: object = parameter.annotation
    return set(re.findall(r"\w+", annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)))


def _context_type(parameter: inspect.Parameter) -> type[Any] | None:
    given = get_args(parameter.annotation)
    return given[0] if len(given) == 1 and isinstance(given[0], type) else None


def _coerced(context: object, wanted: type[Any] | None) -> object:
    """A JSON object as the dataclass or model that a factory declares; anything else as it came."""
    if is_constructed(wanted) and isinstance(context, Mapping):
        given = cast("Mapping[str, Any]", context)
        return cast("Any", wanted)(**accepted_keys(wanted, given))
    return context


def _kind(found: object) -> str:
    if isinstance(found, functools.partial):
        return "a partial"
    return f"the class {found.__name__}" if isinstance(found, type) else f"an object of type {type(found).__name__}"
