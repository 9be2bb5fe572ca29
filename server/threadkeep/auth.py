"""Auth: who may do what, as `Filters` for the statements.

The table of routes names the event of each (`api/routes.py`); nothing reaches a tenant's rows without the `Filters`
made here. There are no principals yet: everybody may see everything.
"""

from typing import Any, Literal, TypeAlias

from starlette.requests import Request

from threadkeep.db.filters import EVERYTHING, Filters

Event: TypeAlias = Literal[
    "assistants.create",
    "assistants.read",
    "assistants.update",
    "assistants.delete",
    "assistants.search",
    "threads.create",
    "threads.read",
    "threads.update",
    "threads.delete",
    "threads.search",
    "threads.create_run",
    "crons.create",
    "crons.read",
    "crons.update",
    "crons.delete",
    "crons.search",
    "store.put",
    "store.get",
    "store.search",
    "store.delete",
    "store.list_namespaces",
    "public",
]
"""`langgraph_sdk.Auth`'s resources and actions; `public`: for anybody, and it sees no tenant's rows."""


async def authorize(event: Event, request: Request[Any]) -> Filters:
    """What the caller of `request` may see; Forbidden where not even that."""
    del event, request
    return EVERYTHING
