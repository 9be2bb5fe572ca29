"""Graphs: the graphs of `langgraph.json`, imported once and opened for each run with the server's persistence.

A static graph gets the server's checkpointer and store once. A factory is called for each use, in the event loop, so a
sync factory that blocks also blocks every other run. Other modules get no untyped objects of LangGraph.
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

# This function is private. It is needed because `with_config` drops a graph's list of its own state types. The two
# runtimes below are private because a factory declares the public alias `ServerRuntime`, which cannot be called.
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
"""A graph that can run. A RemoteGraph counts as one, but another server stores its threads."""

CheckpointSaver: TypeAlias = BaseCheckpointSaver[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """The tenant for which a graph is opened, in addition to its config."""

    store_prefix: str | None = None
    """The store prefix of the graph (`auth/ownership.py`). None: the whole store."""
    filters: Filters = UNRESTRICTED
    """The filters of the rows that the graph reads. A run has none, because the server itself executes it."""
    user: Mapping[str, Any] | None = None
    """The caller, for a factory. The config of a run already contains the user."""
    principal: str | None = None
    """The identity for which items that the graph stores are counted. None: they are not counted."""

    @classmethod
    def of(cls, user: Mapping[str, Any] | None, filters: Filters) -> "Tenant":
        """Return the tenant of a caller that reads a graph or updates a state."""
        principal = None if user is None else user["identity"]
        return cls(store_prefix=filters.store_prefix, filters=filters, user=user, principal=principal)

    @property
    def has_store_of_its_own(self) -> bool:
        """Whether the graph needs a store other than the server's."""
        return self.store_prefix is not None or self.principal is not None or self.filters.restriction is not None


SERVER: Final = Tenant()
"""No tenant: authentication is off, or the server opens the graph for itself."""

FactoryParameter: TypeAlias = Literal["config", "runtime"]

STORE_COPIES: Final = 500
"""Largest number of principals for which a copy of a graph with their store is cached."""

CONFIG_ANNOTATIONS = frozenset({"_empty", "Any", "Dict", "Mapping", "dict"})
"""Annotations with which the only parameter of a factory is the config."""

RUNTIME_ANNOTATIONS = frozenset({"ServerRuntime", "_ExecutionRuntime", "_ReadRuntime"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFactory:
    """A function that returns a graph or a context manager of one, with the arguments that it needs."""

    call: Callable[..., Any]
    parameters: Mapping[str, FactoryParameter]
    """Parameter -> its argument, in the order of the signature."""
    positional: frozenset[str]
    """Parameters that are positional only."""
    context_type: type[Any] | None
    """`C`, if a parameter has the annotation `ServerRuntime[C]`."""


class FactoryCall(NamedTuple):
    """The purpose and the tenant for which a factory is called."""

    access: AccessContext
    context: object
    tenant: Tenant


class LoadedGraph:
    """One entry of `graphs`. It has neither checkpointer nor store until `bind` is called."""

    def __init__(self, graph_id: str, source: Graph | GraphFactory, *, description: str | None = None) -> None:
        self.graph_id = graph_id
        self.description = description
        self._source = source
        self._has_warned = False
        self.bind(checkpointer=None, store=None)

    @property
    def is_static(self) -> bool:
        """Whether it is the same graph for each use. A factory may make another one."""
        return not isinstance(self._source, GraphFactory)

    def bind(self, *, checkpointer: CheckpointSaver | None, store: BaseStore | None) -> None:
        """Give the graph the server's checkpointer and store, which replace those that it was compiled with."""
        self._checkpointer = checkpointer
        self._store = store
        self._durable = self._stateless = None
        # A copy for each principal costs more than the look-up. A new bind also forgets the old copies.
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
        """Open the graph for one use by `tenant`. With `durable=False` it has the store, but no checkpointer.

        For the server, a static graph is the same object each time. A factory is called with `config` or a runtime, as
        its signature declares. Its exceptions propagate. Raise TypeError if its result is not a graph.
        """
        ready = self._durable if durable else self._stateless
        if ready is None:
            return self._make_and_open(config, FactoryCall(access, context, tenant), durable=durable)
        if not tenant.has_store_of_its_own:
            return nullcontext(ready)
        # Not cached: a restriction belongs to one request, so the copy is used once.
        if tenant.filters.restriction is not None:
            return nullcontext(_for_tenant(ready, tenant))
        return nullcontext(self._of_principal(tenant.store_prefix, tenant.principal, durable))

    def _scoped(self, store_prefix: str | None, principal: str | None, durable: bool) -> Graph:
        """Return the static graph for the runs of a principal, with its store prefix."""
        ready = self._durable if durable else self._stateless
        return _for_tenant(cast("Graph", ready), Tenant(store_prefix=store_prefix, principal=principal))

    @asynccontextmanager
    async def _make_and_open(
        self, config: RunnableConfig, call: FactoryCall, *, durable: bool
    ) -> AsyncGenerator[Graph, None]:
        factory = cast("GraphFactory", self._source)
        user = call.tenant.user
        # A factory may read `config["configurable"]` at any time, as on the reference, also to describe the graph.
        values = {**config.get("configurable", {}), **(auth_configurable(user) if user is not None else {})}
        config = {**config, "configurable": values}
        try:
            async with AsyncExitStack() as stack:
                # The factory's context manager stays open during the run, and is closed when the caller's block ends.
                graph = await self._make(stack, factory, config, self._runtime(factory, config, call))
                yield _for_tenant(self._join(graph, durable=durable), call.tenant)
        except (SystemExit, KeyboardInterrupt) as error:  # in a task, these would stop the event loop
            raise RuntimeError(f"the factory of graph {self.graph_id} raised {type(error).__name__}") from error

    async def _make(
        self, stack: AsyncExitStack, factory: GraphFactory, config: RunnableConfig, runtime: object
    ) -> Graph:
        arguments = {name: config if kind == "config" else runtime for name, kind in factory.parameters.items()}
        args = [value for name, value in arguments.items() if name in factory.positional]
        kwargs = {name: value for name, value in arguments.items() if name not in factory.positional}
        result = factory.call(*args, **kwargs)
        # A plain function may return a coroutine too, so the result decides and not the kind of the function.
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, AbstractAsyncContextManager):
            result = await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", result))
        elif isinstance(result, AbstractContextManager):
            result = stack.enter_context(cast("AbstractContextManager[object]", result))
        graph = _as_graph(result)
        if graph is None:
            raise TypeError(f"the factory of graph {self.graph_id} made {_kind(result)}, which is not a graph")
        return graph

    def _runtime(self, factory: GraphFactory, config: RunnableConfig, call: FactoryCall) -> object:
        if "runtime" not in factory.parameters.values():
            return None
        user = config.get("configurable", {}).get("langgraph_auth_user")
        store = cast("BaseStore", _store_of(call.tenant, self._store))  # None only if the server has no store
        if call.access != "threads.create_run":
            read: _ReadRuntime[Any] = _ReadRuntime(access_context=call.access, user=user, store=store)
            return read
        typed = _coerced(call.context, factory.context_type)
        return _ExecutionRuntime(access_context=call.access, user=user, store=store, context=typed)

    def _join(self, graph: Graph, *, durable: bool) -> Graph:
        """Return a shallow copy with the server's checkpointer and store. `Pregel.copy` would lose other attributes."""
        if not is_local(graph):
            return cast("Graph", ServedRemoteGraph.of(cast("RemoteGraph", graph))) if _is_remote(graph) else graph
        joined: Any = copy.copy(graph)
        self._warn_replaced(joined.checkpointer, joined.store)
        # Also for a graph without a thread: the user's own checkpointer must not write anywhere.
        joined.checkpointer = None
        joined.context_schema = runtime_class(joined.context_schema)
        joined.store = self._store
        if durable and self._checkpointer is not None:
            joined.checkpointer = self._checkpointer.with_allowlist(state_types(graph))
        return joined

    def _warn_replaced(self, *parts: object) -> None:
        # `True` and `False` are no checkpointers: a subgraph says with them whether it inherits one.
        names = [type(part).__name__ for part in parts if not isinstance(part, bool | None)]
        if names and not self._has_warned:
            log.warning(
                "a graph's own persistence is replaced by Postgres",
                extra={"graph_id": self.graph_id, "replaced": names},
            )
            self._has_warned = True


Graphs: TypeAlias = Mapping[str, LoadedGraph]


def load_graphs(project: Project) -> Graphs:
    """Import every graph of the project. Factories are not called yet. Raise StartupError if a graph cannot be imported."""
    loaded: dict[str, LoadedGraph] = {}
    for graph_id, target in project.graphs.items():
        key = f"graphs.{graph_id}"
        target_object = import_target(project.root, target.path, key=key)
        where = f"{key}: {target.path}"
        loaded[graph_id] = as_loaded_graph(
            graph_id, target_object, where=where, description=target.description, root=project.root
        )
    return loaded


def as_loaded_graph(
    graph_id: str, target: object, *, where: str, description: str | None = None, root: Path | None = None
) -> LoadedGraph:
    """Return a target's object as a graph or a graph factory. Raise StartupError with `where` if it is neither.

    `root` is the project's folder. An error names the last line in it.
    """
    try:
        graph = _as_graph(target)
        source = _as_factory(target) if graph is None else graph
    except Exception as error:
        log.debug("a graph can't be compiled", extra={"graph_id": graph_id}, exc_info=True)
        raise StartupError(f"{where}: {reason(error, root or Path.cwd())}") from error
    if isinstance(source, str):
        raise StartupError(f"{where}: {source}")
    return LoadedGraph(graph_id, source, description=description)


def state_types(graph: Graph) -> set[tuple[str, ...]]:
    """Return the types, as `(module, name)`, that checkpoints of a graph and of its subgraphs may contain."""
    loose: Any = graph
    types: set[tuple[str, ...]] = set()
    for part in [loose, *(subgraph for _, subgraph in loose.get_subgraphs(recurse=True) if is_local(subgraph))]:
        # A graph that was not made by a StateGraph has channels, but no builder.
        schemas = [*part.builder.schemas] if hasattr(part, "builder") else []
        types |= build_serde_allowlist(schemas=[*schemas, part.context_schema], channels=part.channels)
    return types


def _for_tenant(graph: Graph, tenant: Tenant) -> Graph:
    """Return the graph itself for the server, else a shallow copy with the tenant's checkpointer and store."""
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
    return store.scoped(tenant.store_prefix, tenant.filters, principal=tenant.principal)


def is_local(graph: object) -> bool:
    """Whether a graph runs in this process. A RemoteGraph does not."""
    return isinstance(graph, Pregel)


def _is_remote(graph: object) -> bool:
    return isinstance(graph, RemoteGraph)


def _as_graph(target: object) -> Graph | None:
    if isinstance(target, StateGraph):
        return cast("Any", target).compile()
    return cast("Graph", target) if isinstance(target, PregelProtocol) else None


def _as_factory(target: object) -> GraphFactory | str:
    """Return the factory, or the reason why the target is not one."""
    # A class and a Runnable are callable too, but a call of them makes no graph.
    if not callable(target) or isinstance(target, (type, Runnable)):
        return f"found {_kind(cast('object', target))}, which is neither a graph nor a function that makes one"
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        return "found a generator function: decorate it with contextlib.asynccontextmanager or contextmanager"
    parameters = [item for item in _signature(target).parameters.values() if item.kind.name[:3] != "VAR"]
    kinds: dict[str, FactoryParameter] = {
        item.name: kind for item in parameters if (kind := _kind_of(item)) is not None
    }
    required = [item for item in parameters if item.name not in kinds and item.default is item.empty]
    # A factory's only parameter is the config in LangGraph's server too, whatever its name.
    if len(parameters) == len(required) == 1 and _words(required[0]) & CONFIG_ANNOTATIONS:
        kinds[required.pop().name] = "config"
    if required:
        names = ", ".join(item.name for item in required)
        return f"found a function with the parameters {names}: a factory gets only a RunnableConfig and a ServerRuntime"
    return GraphFactory(
        call=target,
        parameters=kinds,
        positional=frozenset(item.name for item in parameters if item.kind is item.POSITIONAL_ONLY),
        context_type=next((_context_type(item) for item in parameters if kinds.get(item.name) == "runtime"), None),
    )


def _signature(call: Callable[..., object]) -> inspect.Signature:
    """Return the signature with annotations as types, or as strings if one names an object missing at runtime."""
    try:
        # Files with `from __future__ import annotations` have only strings.
        return inspect.signature(call, eval_str=True)
    except (NameError, AttributeError, TypeError):
        return inspect.signature(call)


def _kind_of(parameter: inspect.Parameter) -> FactoryParameter | None:
    """Return the argument for a parameter, by its annotation or else by its name."""
    words = _words(parameter)
    if "RunnableConfig" in words:
        return "config"
    if words & RUNTIME_ANNOTATIONS:
        return "runtime"
    return cast("FactoryParameter", parameter.name) if parameter.name in {"config", "runtime"} else None


def _words(parameter: inspect.Parameter) -> set[str]:
    """Return the names in an annotation, or `_empty` if there is none."""
    annotation: object = parameter.annotation
    return set(re.findall(r"\w+", annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)))


def _context_type(parameter: inspect.Parameter) -> type[Any] | None:
    arguments = get_args(parameter.annotation)
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], type) else None


def _coerced(context: object, context_type: type[Any] | None) -> object:
    """Return a JSON object as the dataclass or model that a factory declares, and anything else unchanged."""
    if is_constructed(context_type) and isinstance(context, Mapping):
        fields = cast("Mapping[str, Any]", context)
        return cast("Any", context_type)(**accepted_keys(context_type, fields))
    return context


def _kind(target: object) -> str:
    if isinstance(target, functools.partial):
        return "a partial"
    return f"the class {target.__name__}" if isinstance(target, type) else f"an object of type {type(target).__name__}"
