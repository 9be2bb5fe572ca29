"""Principal: the authenticated caller of a request, and its representation for graphs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from threadkeep.base.problems import Unauthenticated

MAX_IDENTITY_LENGTH = 250
"""Characters. An identity is stored in indexes and in prefixes of the store, whose size is limited."""


class User(dict[str, Any]):
    """The user for graphs and handlers: a mapping whose items are also attributes, as in LangGraph's own class."""

    # Every user has these. LangGraph reads each of them for each run, and `__getattr__` would be slow.
    identity = property(itemgetter("identity"))
    display_name = property(itemgetter("display_name"))
    is_authenticated = property(itemgetter("is_authenticated"))
    permissions = property(itemgetter("permissions"))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        # `hasattr`, `copy` and `pickle` expect an AttributeError for a name that is missing.
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller."""

    identity: str
    display_name: str
    permissions: tuple[str, ...] = ()
    user: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The JSON that a graph gets as `langgraph_auth_user`."""
    has_others: bool | None = None
    """Whether other identities exist. None if the authenticator does not know."""


NOBODY: Mapping[str, Any] = {
    "langgraph_auth_user": None,
    "langgraph_auth_user_id": "",
    "langgraph_auth_permissions": [],
}
"""The user's keys in a graph's `configurable` while authentication is off."""


def auth_configurable(user: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's keys for a graph's `configurable`. They are never sent to clients (`parts`, `checkpoints`)."""
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
    """Return the principal of an identity. `user` adds further keys. Raise ValueError if the identity is not valid."""
    if not identity or len(identity) > MAX_IDENTITY_LENGTH or "\0" in identity or not identity.isprintable():
        raise ValueError(f"an identity is 1 to {MAX_IDENTITY_LENGTH} printable characters")
    fields: dict[str, Any] = {
        "identity": identity,
        "display_name": display_name or identity,
        "is_authenticated": True,
        "permissions": list(permissions),
    }
    return Principal(
        identity=identity,
        display_name=display_name or identity,
        permissions=permissions,
        user={**(user or {}), **fields},  # the fields last, so that no claim replaces the identity
        has_others=has_others,
    )


def of_user(user: Mapping[str, Any] | None) -> Principal:
    """Return the principal of a run's user. Raise Unauthenticated if the run was started without authentication."""
    if user is None:
        raise Unauthenticated("the calling run has no user")
    return principal(user["identity"], str(user.get("display_name") or ""), tuple(user["permissions"]), user=user)
