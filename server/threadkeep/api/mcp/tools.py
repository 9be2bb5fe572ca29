"""Tools: the assistants that a caller may run, each under a name of its own.

A graph's own assistant has the graph's name. Graphs are first, in the order of langgraph.json, and then the other assistants
by their creation. So a name never changes because of a newer assistant.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from threadkeep.api.mcp.schemas import NO_SCHEMAS, JsonSchema, ToolSchemas
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base.problems import Forbidden, NotFound
from threadkeep.graphs import Tenant
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.assistants import ResolvedAssistant, resolved
from threadkeep.runs.request import GraphRunOptions, RunRequest
from threadkeep.tables import assistants
from threadkeep.tables.assistants import Assistant, AssistantFilter
from threadkeep.tables.run_chains import ChainRun

MAX_NAME: Final = 64
"""Characters of a tool's name."""
MAX_ASSISTANTS: Final = 1000
"""The most assistants besides those of graphs that are tools."""
UNNAMED: Final = "Untitled"
"""The name of an assistant whose creator gave it none."""
OTHER_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAssistant:
    """An assistant with the name and description of its tool."""

    name: str
    title: str | None = None
    """The assistant's own name. None: it was not read."""
    description: str | None
    assistant: ResolvedAssistant
    filters: Filters
    """The filters by which the caller may use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool of a caller."""

    name: str
    title: str
    """The name for people, with any characters."""
    description: str
    assistant: ResolvedAssistant
    schemas: ToolSchemas

    @property
    def definition(self) -> JsonSchema:
        """The tool as `tools/list` has it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.schemas.input_schema,
            "outputSchema": self.schemas.output_schema,
        }


async def list_tools(call: AuthorizedRequest[Any, Any]) -> list[Tool]:
    """Return the tools that the caller may run. Raise Forbidden if its scopes allow none."""
    named = [*await _graphs(call), *await _others(call)]
    return [await _tool(call, each) for each in named]


async def find_tool(call: AuthorizedRequest[Any, Any], name: str) -> Tool | None:
    """The caller's tool of that name. None if it has none. A tool of a graph needs no statement."""
    for graph_id, graph_name in graph_names(list(call.state.graphs)):
        if graph_name == name:
            assistant = await _own_assistant(call, graph_id)
            named = NamedAssistant(name=name, description=None, assistant=assistant, filters=UNRESTRICTED)
            return await _tool(call, named)
    match = next((each for each in await _others(call) if each.name == name), None)
    return None if match is None else await _tool(call, match)


async def _own_assistant(call: AuthorizedRequest[Any, Any], graph_id: str) -> ResolvedAssistant:
    """A graph's own assistant, for its schemas. Its configuration is read only if the graph depends on it."""
    if not call.state.graphs[graph_id].is_static:
        return await call.assistants.resolve(UNRESTRICTED, graph_id)
    return ResolvedAssistant(
        assistant_id=assistants.system_id(graph_id), graph_id=graph_id, config={}, context={}, metadata={}
    )


def graph_names(graph_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The names of the tools of graphs."""
    used_names: set[str] = set()
    for graph_id in graph_ids:
        yield graph_id, _free_name(graph_id, assistants.system_id(graph_id), used_names)


def _free_name(name: str, assistant_id: UUID, used_names: set[str]) -> str:
    """Return a free name and reserve it. Digits of the id separate assistants that would have the same name."""
    base = OTHER_CHARACTERS.sub("_", name)[:MAX_NAME] or UNNAMED
    # The id and not a counter, so that the deletion of one assistant does not rename another.
    for digits in ("", assistant_id.hex[:8], assistant_id.hex):
        suffix = f"-{digits}" if digits else ""
        chosen = base[: MAX_NAME - len(suffix)] + suffix
        if chosen not in used_names and (suffix or base != UNNAMED):
            break
    used_names.add(chosen)
    return chosen


async def _graphs(call: AuthorizedRequest[Any, Any]) -> list[NamedAssistant]:
    """The graphs' own assistants that the caller may run."""
    graph_assistants: list[NamedAssistant] = []
    permission = _Permission(call)
    async with call.state.pool.connection() as conn:
        rows = {
            graph_id: await assistants.get(conn, UNRESTRICTED, assistants.system_id(graph_id))
            for graph_id in call.state.graphs
        }
    for graph_id, name in graph_names(list(call.state.graphs)):
        row = rows[graph_id]
        if row is not None and await permission.filters(row.assistant_id) is not None:
            description = row.description or call.state.graphs[graph_id].description
            graph_assistants.append(_named(name, description, row, UNRESTRICTED))
    # Not one tool may be run: an empty list would hide that the caller lacks a scope.
    if call.state.graphs and not graph_assistants and permission.refusal is not None:
        raise permission.refusal
    return graph_assistants


async def _others(call: AuthorizedRequest[Any, Any]) -> list[NamedAssistant]:
    """The other assistants that the caller may read and run."""
    value: dict[str, Any] = {"graph_id": None, "limit": MAX_ASSISTANTS, "offset": 0, "metadata": {}}
    try:
        filters = await call.authorize("assistants.search", value)
    # Without the permission to search, the caller still has the graphs' tools.
    except Forbidden:
        return []
    graphs, permission = list(call.state.graphs), _Permission(call)
    # The graphs' own assistants are rows too, and are skipped below.
    page = PageRequest(limit=MAX_ASSISTANTS + len(graphs), offset=0, answer_bytes=call.state.settings.answer_bytes)
    selection = AssistantFilter(served=graphs, metadata=value.get("metadata"))  # a handler may have narrowed the search
    async with call.state.pool.connection(filters) as conn:
        rows = await assistants.search(conn, filters, selection, order=("created_at", "asc"), page=page)
    # Graphs first: their names must not depend on the assistants that users create.
    used_names = {name for _, name in graph_names(graphs)}
    named: list[NamedAssistant] = []
    for row in (each.row for each in rows):
        if call.assistants.is_of_graph(row.assistant_id):
            continue
        # Before the permission, so that a name does not depend on the caller.
        name = _free_name(row.name, row.assistant_id, used_names)
        readable = await permission.filters(row.assistant_id)
        if readable is not None and readable.include(row.metadata.load()):
            named.append(_named(name, row.description, row, readable))
    return named


def _named(name: str, description: str | None, row: Assistant, filters: Filters) -> NamedAssistant:
    return NamedAssistant(name=name, title=row.name, description=description, assistant=resolved(row), filters=filters)


class _Permission:
    """Whether a caller may run assistants, as `RunService` will decide at the call."""

    def __init__(self, call: AuthorizedRequest[Any, Any]) -> None:
        self._call = call
        self._known: dict[bool, Filters | None] = {}
        self.refusal: Forbidden | None = None
        """Why the last assistant may not be run."""

    async def filters(self, assistant_id: UUID) -> Filters | None:
        """The filters of the assistant. None if the caller may not run it.

        A built-in authenticator decides by the scopes of the caller, and so once for all assistants of a kind.
        """
        authenticator = self._call.caller.authenticator
        if authenticator is None:
            return UNRESTRICTED
        is_own = self._call.assistants.is_of_graph(assistant_id)
        # A project's handler may decide by the id of the assistant, so its decision is asked for each.
        if authenticator.reads_values or is_own not in self._known:
            self._known[is_own] = await self._decide(assistant_id)
        return self._known[is_own]

    async def _decide(self, assistant_id: UUID) -> Filters | None:
        request = RunRequest(spec=GraphRunOptions(), assistant=str(assistant_id))
        try:
            return (await self._call.state.runs.authorize(self._call.caller, request)).assistants
        except Forbidden as refusal:
            self.refusal = refusal
            return None


async def tool_of_run(call: AuthorizedRequest[Any, Any], run: ChainRun) -> Tool:
    """Return the tool that a run of the caller executes. Its assistant may have been deleted."""
    try:
        assistant = await call.assistants.resolve(UNRESTRICTED, str(run.assistant_id))
    except NotFound:
        assistant = ResolvedAssistant(
            assistant_id=run.assistant_id, graph_id=run.graph_id, config={}, context={}, metadata={}
        )
    name = str(run.metadata.load().get("mcp", {}).get("tool", run.graph_id))
    return await _tool(call, NamedAssistant(name=name, description=None, assistant=assistant, filters=UNRESTRICTED))


async def _tool(call: AuthorizedRequest[Any, Any], named: NamedAssistant) -> Tool:
    loaded = call.state.graphs.get(named.assistant.graph_id)
    tenant = Tenant.of(call.caller.user, named.filters)
    return Tool(
        name=named.name,
        title=named.title or named.name,
        description=named.description or f"Run the agent {named.name}.",
        assistant=named.assistant,
        schemas=NO_SCHEMAS if loaded is None else await call.state.mcp.schemas.get(loaded, named.assistant, tenant),
    )
