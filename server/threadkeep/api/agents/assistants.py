"""Agents: the assistants that a caller may use, by id or by the name of a graph.

A graph's own assistant may be used by every caller, also if a filter of a project's own `Auth` hides it in searches. An
unknown assistant and another user's give the same answer.
"""

from typing import Any
from uuid import UUID

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base.problems import NotFound
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.assistants import AssistantCache, ResolvedAssistant


def agent_id(known: AssistantCache, id_or_graph: str) -> UUID:
    """The id of an agent, from an id or the name of a graph. NotFound if the text is neither."""
    if (assistant_id := known.find_id(id_or_graph)) is None:
        raise unknown_agent(id_or_graph)
    return assistant_id


async def find_agent(call: AuthorizedRequest[Any, Any], id_or_graph: str) -> ResolvedAssistant:
    """The agent, after the caller was authorized to read it. NotFound, or Forbidden without the scope."""
    assistant_id = agent_id(call.assistants, id_or_graph)
    filters = UNRESTRICTED
    # A graph's own assistant is not looked up with filters, because those of a project's `Auth` may hide it.
    if not call.assistants.is_of_graph(assistant_id):
        filters = await call.authorize("assistants.read", {"assistant_id": assistant_id, "metadata": {}})
    return await resolve_agent(call, filters, id_or_graph)


async def resolve_agent(call: AuthorizedRequest[Any, Any], filters: Filters, id_or_graph: str) -> ResolvedAssistant:
    """The agent, for a caller that was authorized. NotFound."""
    agent_id(call.assistants, id_or_graph)
    try:
        return await call.assistants.resolve(filters, id_or_graph)
    except NotFound:
        # The same text for all cases: a caller must not learn which assistants of others exist.
        raise unknown_agent(id_or_graph) from None


def unknown_agent(id_or_graph: str) -> NotFound:
    """The error for an agent that does not exist, or that the caller may not see."""
    return NotFound(f"Agent {id_or_graph[:100]!r} not found")
