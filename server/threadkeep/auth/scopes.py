"""Scopes: the events that an API key or a token is limited to, by one rule for both.

A scope is an event such as `threads.read`, or all events of a resource, such as `threads.*`. A colon may stand for the
period, because many issuers write `threads:read`. A scope that is not known grants nothing.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from threadkeep.auth.authorization import AuthEvent
from threadkeep.base.problems import Forbidden

ALL_EVENTS: Final = frozenset(get_args(AuthEvent)) - {"public", "caller"}
SCOPES: Final = ALL_EVENTS | {f"{event.split('.')[0]}.*" for event in ALL_EVENTS}
"""All scopes that mean something."""
OPENID_SCOPES: Final = frozenset({"openid", "profile", "email", "address", "phone", "offline_access"})
"""Scopes that choose what a token says of its user. They do not grant or limit (OpenID Connect Core 1.0, 5.4 and 11)."""
SCOPE_CLAIMS: Final = ("permissions", "scope", "scp")
"""Claims of a token that hold scopes: a text with spaces between (RFC 8693, 4.2), or a list."""
CACHE_MAX_ENTRIES: Final = 10_000

ScopePolicy: TypeAlias = Literal["optional", "required", "ignored"]
"""Whether a token without scopes may do everything or nothing, or whether scopes mean nothing to this server."""


@lru_cache(CACHE_MAX_ENTRIES)
def granted_events(scopes: tuple[str, ...]) -> frozenset[str]:
    """The events that scopes grant together."""
    named = {scope.replace(":", ".", 1) for scope in scopes}
    return frozenset(event for event in ALL_EVENTS if not named.isdisjoint((event, f"{event.split('.')[0]}.*")))


def check_key_scopes(scopes: tuple[str, ...], event: AuthEvent) -> None:
    """Forbidden if the scopes of an API key do not grant the event. A key without scopes may do everything."""
    if scopes and event not in granted_events(scopes):
        raise Forbidden(f"the key's scopes don't reach {event}")


def check_token_scopes(claims: Mapping[str, Any], event: AuthEvent, policy: ScopePolicy) -> None:
    """Forbidden if the claims of a token do not grant the event.

    Every claim of scopes limits the token, so an event must be granted by all that are there. A claim with nothing but
    scopes of OpenID Connect does not limit. A claim that is empty grants nothing.
    """
    if policy == "ignored":
        return
    limits = [scopes for scopes in _claimed(claims) if not scopes or not OPENID_SCOPES.issuperset(scopes)]
    if not limits and policy == "required":
        raise Forbidden(f"the token has no scopes, and {event} needs one")
    if not all(event in granted_events(scopes) for scopes in limits):
        raise Forbidden(f"the token's scopes don't reach {event}")


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
    """The scopes of a token as graphs see them: those of its first claim of scopes. ValueError if a claim is malformed."""
    return next(iter(_claimed(claims)), ())


def _claimed(claims: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [_scopes(claims[name]) for name in SCOPE_CLAIMS if claims.get(name) is not None]


def _scopes(claim: object) -> tuple[str, ...]:
    if isinstance(claim, str):
        return tuple(claim.split())
    if isinstance(claim, list) and all(isinstance(scope, str) for scope in cast("Iterable[object]", claim)):
        return tuple(cast("list[str]", claim))
    raise ValueError("a claim of scopes is a text or a list of texts")
