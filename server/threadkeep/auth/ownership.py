"""Ownership: the rule of the built-in authenticators. A principal owns the rows that it creates, and sees only these.

It is the example of a handler in LangGraph's documentation: the metadata of each row contains its owner. Items of the
store have no metadata, so the store has a prefix for each principal, which clients never see. A principal's
`("memories",)` is `("owner:alice", "memories")` in the table. This holds for the API and for the graphs of the
principal's runs (docs/decisions/0012-ownership.md).
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
"""The key of a row's metadata with its owner, under built-in authentication. Only the server writes it."""
WRITE_ACTIONS: Final = frozenset({"create", "update", "create_run"})
BUILT_IN: Final = frozenset({"api_key", "jwt"})
"""Methods of authentication under which each principal has a store prefix."""
LABEL: Final = "owner:"
DIGEST_LABEL: Final = "owner-sha256:"
REMEMBERED: Final = 10_000
"""Largest number of identities whose filters are cached."""
MAX_LABEL: Final = 120
"""Characters. Namespace and key are in one index, whose rows have a limited size."""


def owner_filters(principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
    """Set the owner of a row that is written, and return the filters of the principal's rows."""
    resource, action = event.split(".")
    if resource != "store" and action in WRITE_ACTIONS:
        # The key comes last, so a client can't name another owner.
        value["metadata"] = {**(value.get("metadata") or {}), OWNER: principal.identity}
    return _filters(principal.identity)


@lru_cache(REMEMBERED)
def _filters(identity: str) -> Filters:
    """Return the filters of an identity, the same object for each request."""
    return Filters({OWNER: identity}, store_prefix=store_prefix_of(identity))


@lru_cache(REMEMBERED)
def store_prefix_of(identity: str) -> str:
    """Return the store prefix of an identity. It is unique and has no period."""
    # A period separates the labels of a namespace, and `quote` never encodes it.
    plain = LABEL + quote(identity, safe="@+ ").replace(".", "%2E")
    if len(plain) <= MAX_LABEL:
        return plain
    return DIGEST_LABEL + sha256(identity.encode()).hexdigest()


def store_prefix_of_run(auth_type: str | None, metadata: Mapping[str, Any]) -> str | None:
    """Return the store prefix of a run's owner. None under custom or no authentication: the run sees the whole store."""
    # Otherwise clients may write this key themselves, so it names nobody.
    owner = metadata.get(OWNER) if auth_type in BUILT_IN else None
    return store_prefix_of(owner) if isinstance(owner, str) else None
