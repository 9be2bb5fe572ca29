"""Remote graph: adapts a `RemoteGraph` of langgraph.json to the interface of a local graph.

The other server stores the states of its threads. This server stores the runs, and the latest values of each thread. A
thread has a different id on the other server, made from the id here. The other server may be this one, where a thread
has only one run at a time.
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
    """A RemoteGraph with the attributes that a run reads of a local graph. Its chunks contain LangGraph's own objects."""

    context_schema: ClassVar[None] = None
    interrupt_before_nodes: ClassVar[tuple[str, ...]] = ()
    interrupt_after_nodes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, graph: RemoteGraph) -> Self:
        """Return the same graph, adapted for this server."""
        # Not the constructor, which would make new clients without the user's headers and keys.
        served = cls.__new__(cls)
        vars(served).update(vars(graph))
        return served

    async def astream(self, input: Any, config: RunnableConfig | None = None, **arguments: Any) -> AsyncIterator[Any]:  # noqa: A002 - LangGraph's name
        """Stream like RemoteGraph. If the run is cancelled here, it is also cancelled on the other server."""
        configurable = _configurable(config)
        remote_config = {key: value for key, value in (config or {}).items() if key in PASSED_ON}
        # A client's own keys are in the context too, and a server accepts only one of the two.
        remote_config["configurable"] = (
            {"thread_id": self._thread_id(configurable)} if "durability" in arguments else {}
        )
        if configurable.get("checkpoint_id"):
            arguments["checkpoint_id"] = configurable["checkpoint_id"]
        remote: Any = super()
        # The other server sees only that this connection ends, and by default its run would go on.
        chunks = remote.astream(input, cast("RunnableConfig", remote_config), on_disconnect="cancel", **arguments)
        # Closes the connection if the run is cancelled between two chunks, and so cancels the other run.
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
        """Yield the graph's chunks as LangChain's events. The other server's own events are not included."""
        del version
        root = str((config or {}).get("run_id"))
        async for chunk in self.astream(input, config, **arguments):
            yield {"event": "on_chain_stream", "run_id": root, "data": {"chunk": chunk}}

    async def aget_state(self, config: RunnableConfig, **options: Any) -> StateSnapshot:
        """Return the thread's state on the other server, or an empty state if it has none."""
        try:
            snapshot = await super().aget_state(self._remote_config(config), **options)
        except (httpx.HTTPStatusError, TypeError) as error:  # a thread without a checkpoint is a TypeError
            _raise_unless_missing(error)
            return NO_STATE
        return _local_snapshot(snapshot, _configurable(config))

    async def aget_state_history(
        self, config: RunnableConfig, *, before: RunnableConfig | None = None, **options: Any
    ) -> AsyncIterator[StateSnapshot]:
        """Yield the thread's states on the other server, or none if the thread does not exist there."""
        remote_before = before and self._remote_config(before)
        try:
            async for snapshot in super().aget_state_history(
                self._remote_config(config), before=remote_before, **options
            ):
                yield _local_snapshot(snapshot, _configurable(config))
        except httpx.HTTPStatusError as error:
            _raise_unless_missing(error)

    async def abulk_update_state(self, config: RunnableConfig, updates: Any) -> RunnableConfig:
        """Update the thread's state on the other server, in order. Return the config of the last checkpoint."""
        at = self._remote_config(config)
        for update in chain.from_iterable(updates):
            # One after the other, because RemoteGraph has no call for several updates. Each starts at the checkpoint
            # before.
            at = await self.aupdate_state(at, update.values, update.as_node)
        return cast(
            "RunnableConfig", {"configurable": _configurable(at) | {"thread_id": _configurable(config)["thread_id"]}}
        )

    def _remote_config(self, config: RunnableConfig) -> RunnableConfig:
        configurable = _configurable(config)
        return cast("RunnableConfig", {"configurable": {**configurable, "thread_id": self._thread_id(configurable)}})

    def _thread_id(self, configurable: Mapping[str, Any]) -> str:
        # Another id: the other server may be this one, and its thread would be the one that the run has locked.
        return str(uuid5(UUID(configurable["thread_id"]), f"remote graph {self.assistant_id}"))


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    return (config or {}).get("configurable") or {}


def _raise_unless_missing(error: Exception) -> None:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code != 404:
        raise error


def _local_snapshot(snapshot: StateSnapshot, configurable: Mapping[str, Any]) -> StateSnapshot:
    """Return a state of the other server's thread with the id of the thread here."""
    thread_id = configurable["thread_id"]
    config, parent_config = (
        remote and cast("RunnableConfig", {"configurable": {**_configurable(remote), "thread_id": thread_id}})
        for remote in (snapshot.config, snapshot.parent_config)
    )
    return snapshot._replace(config=cast("RunnableConfig", config), parent_config=parent_config)


def _received(mode: str, data: Any) -> Any:
    if mode == "messages":
        message, metadata = data
        return _message(message), metadata
    if mode in {"values", "updates"} and isinstance(data, dict) and INTERRUPT in data:
        channels = cast("dict[str, Any]", data)
        return {**channels, INTERRUPT: tuple(_interrupt(interrupt) for interrupt in channels[INTERRUPT])}
    return cast("Any", data)


def _message(message: dict[str, Any]) -> BaseMessage:
    if message.get("type") == "AIMessageChunk":
        return AIMessageChunk(**message)
    return convert_to_messages([message])[0]


def _interrupt(fields: dict[str, Any]) -> Interrupt:
    return Interrupt(**{key: fields[key] for key in ("value", "id") if key in fields})
