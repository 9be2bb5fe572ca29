"""Scopes: the events to which an API key or a token is limited, with the same rule for both.

A scope is an event such as `threads.read`, or all events of a resource such as `threads.*`. A colon may replace the
period, because many issuers write `threads:read`. An unknown scope grants nothing.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from threadkeep.auth.authorization import AuthEvent
from threadkeep.base.problems import Forbidden

ALL_EVENTS: Final = frozenset(get_args(AuthEvent)) - {"public", "caller"}  # no scope is needed for these two
SCOPES: Final = ALL_EVENTS | {f"{event.split('.')[0]}.*" for event in ALL_EVENTS}
"""All valid scopes."""
OPENID_SCOPES: Final = frozenset({"openid", "profile", "email", "address", "phone", "offline_access"})
"""Scopes that select a token's claims. They neither grant nor limit events (OpenID Connect Core 1.0, 5.4 and 11)."""
SCOPE_CLAIMS: Final = ("permissions", "scope", "scp")
"""Claims of a token with scopes: a string separated by spaces (RFC 8693, 4.2), or a list."""
CACHE_MAX_ENTRIES: Final = 10_000

ScopePolicy: TypeAlias = Literal["optional", "required", "ignored"]
"""`optional`: a token without scopes may do everything. `required`: it may do nothing. `ignored`: scopes have no effect."""


@lru_cache(CACHE_MAX_ENTRIES)
def granted_events(scopes: tuple[str, ...]) -> frozenset[str]:
    """Return the events that the scopes grant together."""
    names = {scope.replace(":", ".", 1) for scope in scopes}
    return frozenset(event for event in ALL_EVENTS if not names.isdisjoint((event, f"{event.split('.')[0]}.*")))


def check_key_scopes(scopes: tuple[str, ...], event: AuthEvent) -> None:
    """Raise Forbidden if the scopes of an API key do not grant the event. A key without scopes may do everything."""
    if scopes and event not in granted_events(scopes):
        raise Forbidden(f"the key's scopes do not include {event}")


def check_token_scopes(claims: Mapping[str, Any], event: AuthEvent, policy: ScopePolicy) -> None:
    """Raise Forbidden if the claims of a token do not grant the event.

    Every claim with scopes limits the token, so all of them must grant the event. A claim that has only scopes of OpenID
    Connect does not limit. An empty claim grants nothing.
    """
    if policy == "ignored":
        return
    # An issuer adds `openid` to each token of a login. Alone, it would take away all rights.
    limits = [scopes for scopes in _claimed(claims) if not scopes or not OPENID_SCOPES.issuperset(scopes)]
    if not limits and policy == "required":
        raise Forbidden(f"the token has no scopes, and {event} needs one")
    if not all(event in granted_events(scopes) for scopes in limits):
        raise Forbidden(f"the token's scopes do not include {event}")


def token_events(claims: Mapping[str, Any], policy: ScopePolicy) -> frozenset[str]:
    """The events that the claims of a token grant, by the same rule."""
    return frozenset(event for event in ALL_EVENTS if _grants(claims, event, policy))


def _grants(claims: Mapping[str, Any], event: str, policy: ScopePolicy) -> bool:
    try:
        check_token_scopes(claims, cast("AuthEvent", event), policy)
    except Forbidden:
        return False
    return True


def token_permissions(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scopes of a token for graphs, from its first claim with scopes. Raise ValueError if a claim is malformed."""
    return next(iter(_claimed(claims)), ())


def _claimed(claims: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [_scopes(claims[name]) for name in SCOPE_CLAIMS if claims.get(name) is not None]


def _scopes(claim: object) -> tuple[str, ...]:
    if isinstance(claim, str):
        return tuple(claim.split())
    if isinstance(claim, list) and all(isinstance(scope, str) for scope in cast("Iterable[object]", claim)):
        return tuple(cast("list[str]", claim))
    raise ValueError("a claim of scopes must be a string or a list of strings")
