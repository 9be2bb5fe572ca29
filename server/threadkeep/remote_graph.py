"""Remote graph: a `RemoteGraph` named in langgraph.json, made to answer as a graph of this process does.

The states of its threads are kept where it runs. This server keeps the runs, and each thread's last values. A thread
has another id there, made from the one here: the other server may be this one, where a thread has one run at a time.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from itertools import chain
from typing import Any, ClassVar, Final, Self, cast
from uuid import UUID, uuid5

import httpx
from langchain_core.messages import AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Interrupt, StateSnapshot
from langgraph_sdk.schema import StreamPart

INTERRUPT: Final = "__interrupt__"
PASSED_ON: Final = frozenset({"max_concurrency", "recursion_limit", "run_name", "tags"})
"""Keys of a run's config that reach the other server."""
NO_STATE: Final = StateSnapshot(
    values={}, next=(), config={}, metadata=None, created_at=None, parent_config=None, tasks=(), interrupts=()
)


class ServedRemoteGraph(RemoteGraph):
    """A RemoteGraph with what a run reads of a local graph, and whose chunks hold LangGraph's own objects."""

    context_schema: ClassVar[None] = None
    interrupt_before_nodes: ClassVar[tuple[str, ...]] = ()
    interrupt_after_nodes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, graph: RemoteGraph) -> Self:
        """The same graph, for this server."""
        served = cls.__new__(cls)
        vars(served).update(vars(graph))
        return served

    async def astream(self, input: Any, config: RunnableConfig | None = None, **arguments: Any) -> AsyncIterator[Any]:  # noqa: A002 - LangGraph's name
        """As RemoteGraph's. A run that is cancelled here is cancelled there."""
        own = _configurable(config)
        sent = {key: value for key, value in (config or {}).items() if key in PASSED_ON}
        # A client's own keys stand in the context too, and a server takes one of the two.
        sent["configurable"] = {"thread_id": self._thread_id(own)} if "durability" in arguments else {}
        if own.get("checkpoint_id"):
            arguments["checkpoint_id"] = own["checkpoint_id"]
        remote: Any = super()
        chunks = remote.astream(input, cast("RunnableConfig", sent), on_disconnect="cancel", **arguments)
        async with aclosing(cast("AsyncGenerator[Any, None]", chunks)):
            async for chunk in chunks:
                if isinstance(chunk, StreamPart):
                    event, data = cast("tuple[str, Any]", chunk[:2])
                    mode = event.partition("|")[0]
                    yield mode, _received(mode, data)
                else:
                    namespace, mode, data = chunk
                    yield namespace, mode, _received(mode, data)

    async def astream_events(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: RunnableConfig | None = None,
        *,
        version: str = "v2",
        **arguments: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """The graph's chunks as LangChain's events. The other server's own events are not among them."""
        del version
        root = str((config or {}).get("run_id"))
        async for chunk in self.astream(input, config, **arguments):
            yield {"event": "on_chain_stream", "run_id": root, "data": {"chunk": chunk}}

    async def aget_state(self, config: RunnableConfig, **options: Any) -> StateSnapshot:
        """The thread's state there; an empty one where it has none."""
        try:
            found = await super().aget_state(self._there(config), **options)
        except (httpx.HTTPStatusError, TypeError) as error:  # a thread without a checkpoint is a TypeError
            _raise_unless_missing(error)
            return NO_STATE
        return _here(found, _configurable(config))

    async def aget_state_history(
        self, config: RunnableConfig, *, before: RunnableConfig | None = None, **options: Any
    ) -> AsyncIterator[StateSnapshot]:
        """The thread's states there; none where it is not known."""
        told = before and self._there(before)
        try:
            async for found in super().aget_state_history(self._there(config), before=told, **options):
                yield _here(found, _configurable(config))
        except httpx.HTTPStatusError as error:
            _raise_unless_missing(error)

    async def abulk_update_state(self, config: RunnableConfig, updates: Any) -> RunnableConfig:
        """Update the thread's state there, one update after the other; the config of the last checkpoint."""
        at = self._there(config)
        for update in chain.from_iterable(updates):
            at = await self.aupdate_state(at, update.values, update.as_node)
        return cast(
            "RunnableConfig", {"configurable": _configurable(at) | {"thread_id": _configurable(config)["thread_id"]}}
        )

    def _there(self, config: RunnableConfig) -> RunnableConfig:
        own = _configurable(config)
        return cast("RunnableConfig", {"configurable": {**own, "thread_id": self._thread_id(own)}})

    def _thread_id(self, own: Mapping[str, Any]) -> str:
        return str(uuid5(UUID(own["thread_id"]), f"remote graph {self.assistant_id}"))


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    return (config or {}).get("configurable") or {}


def _raise_unless_missing(error: Exception) -> None:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code != 404:
        raise error


def _here(snapshot: StateSnapshot, own: Mapping[str, Any]) -> StateSnapshot:
    """A state of the other server's thread, as one of the thread here."""
    named = [
        config and cast("RunnableConfig", {"configurable": {**_configurable(config), "thread_id": own["thread_id"]}})
        for config in (snapshot.config, snapshot.parent_config)
    ]
    return snapshot._replace(config=cast("RunnableConfig", named[0]), parent_config=named[1])


def _received(mode: str, data: Any) -> Any:
    if mode == "messages":
        message, metadata = data
        return _message(message), metadata
    if mode in {"values", "updates"} and isinstance(data, dict) and INTERRUPT in data:
        found = cast("dict[str, Any]", data)
        return {**found, INTERRUPT: tuple(_interrupt(each) for each in found[INTERRUPT])}
    return cast("Any", data)


def _message(message: dict[str, Any]) -> BaseMessage:
    if message.get("type") == "AIMessageChunk":
        return AIMessageChunk(**message)
    return convert_to_messages([message])[0]


def _interrupt(found: dict[str, Any]) -> Interrupt:
    return Interrupt(**{key: found[key] for key in ("value", "id") if key in found})
