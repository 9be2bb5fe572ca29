"""Spaces: parts of the store, each below a first label of its own that its owner never sees.

Items have no metadata that could say whose they are. So what a principal of the built-in authentication calls
`("memories",)` is `("owner:alice", "memories")` in the table, for the API and for the graphs of the principal's runs
alike: what a graph remembers, the client reads under the same name (docs/decisions/0012-ownership.md).
"""

from collections.abc import Mapping
from contextvars import ContextVar
from hashlib import sha256
from typing import Any, Final, cast
from urllib.parse import quote

from langgraph.store.base import GetOp, Item, ListNamespacesOp, MatchCondition, Op, PutOp, Result, SearchOp

OWNER: Final = "owner"
"""The key of a row's metadata that says whose it is, under the built-in authentication. The server alone writes it."""
BUILT_IN: Final = frozenset({"api_key", "jwt"})
"""Ways of authentication under which everybody has a space."""
LABEL: Final = "owner:"
DIGEST_LABEL: Final = "owner-sha256:"
MAX_LABEL: Final = 120
"""Characters. A namespace stands in an index, beside the key."""

_space: ContextVar[str | None] = ContextVar("space", default=None)


def label(identity: str) -> str:
    """The first label of an identity's items: no two have the same, and it holds no period."""
    plain = LABEL + quote(identity, safe="@+ ").replace(".", "%2E")
    if len(plain) <= MAX_LABEL:
        return plain
    return DIGEST_LABEL + sha256(identity.encode()).hexdigest()


def of_run(auth_type: str | None, metadata: Mapping[str, Any]) -> str | None:
    """The space in which a run works: that of its owner, where the built-in authentication says who that is."""
    owner = metadata.get(OWNER) if auth_type in BUILT_IN else None
    return label(owner) if isinstance(owner, str) else None


def enter(space: str | None) -> None:
    """From here on, this task and those that it starts work in `space`; None: in the whole store."""
    _space.set(space)


def current() -> str | None:
    """Where this task works."""
    return _space.get()


def inside(space: str, op: Op) -> Op:
    """The operation as it is on the table."""
    if isinstance(op, (GetOp, PutOp)):
        return op._replace(namespace=(space, *op.namespace))
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(space, *op.namespace_prefix))
    return _inside_listing(space, op)


def _inside_listing(space: str, op: ListNamespacesOp) -> ListNamespacesOp:
    """A suffix may not match the label itself: at least its own length stands behind that."""
    found: list[MatchCondition] = []
    for one in op.match_conditions or ():
        if one.match_type == "prefix":
            found.append(one._replace(path=(space, *one.path)))
        else:
            found += [one, MatchCondition("prefix", (space, *["*"] * len(one.path)))]
    depth = None if op.max_depth is None else op.max_depth + 1
    return op._replace(match_conditions=(*found, MatchCondition("prefix", (space,))), max_depth=depth)


def outside(result: Result) -> Result:
    """What came of an operation, without the label."""
    found: Any = result
    if isinstance(found, list):
        every = cast("list[Any]", found)
        found = [one[1:] if isinstance(one, tuple) else outside(one) for one in every]
    elif isinstance(found, Item):
        found.namespace = found.namespace[1:]
    return found
