"""Ownership: the rule of the doors that are built in: what you make is yours, and you see what is yours.

It is the rule that LangGraph's documentation gives as the example of a handler: the owner stands in the metadata of
each row. Items of the store have no metadata, so everybody has a space: a part of the store below a first label of its
own, which its owner never sees. What a principal calls `("memories",)` is `("owner:alice", "memories")` in the table, for
the API and for the graphs of the principal's runs alike (docs/decisions/0012-ownership.md).
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from threadkeep.auth.authenticator import AuthValue
from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.principal import Principal
from threadkeep.postgres.tenancy import Filters

OWNER: Final = "owner"
"""The key of a row's metadata that says whose it is, under the built-in authentication. The server alone writes it."""
WRITE_ACTIONS: Final = frozenset({"create", "update", "create_run"})
BUILT_IN: Final = frozenset({"api_key", "jwt"})
"""Ways of authentication under which everybody has a space."""
LABEL: Final = "owner:"
DIGEST_LABEL: Final = "owner-sha256:"
REMEMBERED: Final = 10_000
"""Identities whose filters are kept."""
MAX_LABEL: Final = 120
"""Characters. A namespace stands in an index, beside the key."""


def owner_filters(principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
    """Mark what is written as the principal's, and let through what is theirs."""
    resource, action = event.split(".")
    if resource != "store" and action in WRITE_ACTIONS:
        value["metadata"] = {**(value.get("metadata") or {}), OWNER: principal.identity}
    return _filters(principal.identity)


@lru_cache(REMEMBERED)
def _filters(identity: str) -> Filters:
    """The same object for each request of an identity."""
    return Filters({OWNER: identity}, store_prefix=space(identity))


@lru_cache(REMEMBERED)
def space(identity: str) -> str:
    """The first label of an identity's items: no two identities have the same, and it holds no period."""
    plain = LABEL + quote(identity, safe="@+ ").replace(".", "%2E")
    if len(plain) <= MAX_LABEL:
        return plain
    return DIGEST_LABEL + sha256(identity.encode()).hexdigest()


def space_of_run(auth_type: str | None, metadata: Mapping[str, Any]) -> str | None:
    """The space in which a run works: that of its owner; None: the whole store, under custom authentication or none."""
    owner = metadata.get(OWNER) if auth_type in BUILT_IN else None
    return space(owner) if isinstance(owner, str) else None
