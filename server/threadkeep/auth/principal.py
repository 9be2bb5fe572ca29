"""Principal: who is calling, once a door has let them in, and the same person as a graph sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from threadkeep.base.problems import Unauthenticated

MAX_IDENTITY_LENGTH = 250
"""Characters. An identity stands in indexes, and in front of namespaces of the store."""


class User(dict[str, Any]):
    """What graphs and handlers get: a mapping that gives its items as attributes too, as LangGraph's own does."""

    # Those that every user has. LangGraph looks each of them up for each run, which `__getattr__` makes slow.
    identity = property(itemgetter("identity"))
    display_name = property(itemgetter("display_name"))
    is_authenticated = property(itemgetter("is_authenticated"))
    permissions = property(itemgetter("permissions"))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller who is known."""

    identity: str
    display_name: str
    permissions: tuple[str, ...] = ()
    user: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON; what a graph gets as `langgraph_auth_user`."""
    has_others: bool | None = None
    """Whether there are other identities that may call; None if the authenticator can't know."""


NOBODY: Mapping[str, Any] = {
    "langgraph_auth_user": None,
    "langgraph_auth_user_id": "",
    "langgraph_auth_permissions": [],
}
"""What a graph reads of its user in `configurable` while authentication is off."""


def auth_configurable(user: Mapping[str, Any]) -> dict[str, Any]:
    """What a graph reads of its user in `configurable`; no client ever sees it, see `parts` and `checkpoints`."""
    return {
        "langgraph_auth_user": User(user),
        "langgraph_auth_user_id": user["identity"],
        "langgraph_auth_permissions": list(user["permissions"]),
    }


def principal(
    identity: str,
    display_name: str = "",
    permissions: tuple[str, ...] = (),
    *,
    user: Mapping[str, Any] | None = None,
    has_others: bool | None = None,
) -> Principal:
    """The principal of an identity; `user` has further keys of its user. ValueError where it is no identity."""
    if not identity or len(identity) > MAX_IDENTITY_LENGTH or "\0" in identity or not identity.isprintable():
        raise ValueError(f"an identity is 1 to {MAX_IDENTITY_LENGTH} printable characters")
    own: dict[str, Any] = {
        "identity": identity,
        "display_name": display_name or identity,
        "is_authenticated": True,
        "permissions": list(permissions),
    }
    return Principal(
        identity=identity,
        display_name=display_name or identity,
        permissions=permissions,
        user={**(user or {}), **own},
        has_others=has_others,
    )


def of_user(user: Mapping[str, Any] | None) -> Principal:
    """The principal that a run's user was. Unauthenticated if the run has none: it was made without authentication."""
    if user is None:
        raise Unauthenticated("the run that calls has no user")
    return principal(user["identity"], str(user.get("display_name") or ""), tuple(user["permissions"]), user=user)
