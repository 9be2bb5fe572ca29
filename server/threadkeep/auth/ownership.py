"""Ownership: the rule of the doors that are built in: what you make is yours, and you see what is yours.

It is the rule that LangGraph's documentation gives as the example of a handler: the owner stands in the metadata of
each row. Items of the store have none: everybody has a part of the store (`postgres/store_spaces.py`).
"""

from threadkeep.auth.authenticator import Value
from threadkeep.auth.authorization import Event
from threadkeep.auth.principal import Principal
from threadkeep.postgres import store_spaces
from threadkeep.postgres.filters import Filters
from threadkeep.postgres.store_spaces import OWNER

WRITING = frozenset({"create", "update", "create_run"})


def own(principal: Principal, event: Event, value: Value) -> Filters:
    """Mark what is written as the principal's, and let through what is theirs."""
    resource, action = event.split(".")
    if resource != "store" and action in WRITING:
        value["metadata"] = {**(value.get("metadata") or {}), OWNER: principal.identity}
    return Filters({OWNER: principal.identity}, space=store_spaces.label(principal.identity))
