"""Given: what a project's auth code gets of a request, and what is made of that which it returns."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, cast
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request

from threadkeep.auth.authenticator import CHALLENGE
from threadkeep.auth.principal import Principal, principal
from threadkeep.base import json
from threadkeep.base.problems import Unauthenticated
from threadkeep.postgres.tenancy import Filters

DEFAULT_PARAMETERS: Final = ("identity", "display_name", "is_authenticated", "permissions")


class InvalidAuthResult(Exception):
    """A project's auth code returned what means nothing. It ends as any other exception of its own: 500, and no entrance."""


class HeaderBytes(dict[bytes, bytes]):
    """Headers as LangGraph hands them to `authenticate`: bytes; a text is understood too."""

    def __getitem__(self, name: bytes | str) -> bytes:
        return super().__getitem__(_bytes(name))

    def get(self, name: bytes | str, default: Any = None) -> Any:
        return super().get(_bytes(name), default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(_bytes(name) if isinstance(name, (bytes, str)) else name)


def _bytes(name: bytes | str) -> bytes:
    return (name.encode("latin-1", "replace") if isinstance(name, str) else name).lower()


class AuthenticateArguments:
    """The parameters that `authenticate` may ask for, by name."""

    NAMES: ClassVar[frozenset[str]] = frozenset(
        {
            "request",
            "body",
            "user",
            "path",
            "method",
            "scopes",
            "path_params",
            "query_params",
            "headers",
            "authorization",
            "scope",
        }
    )

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    async def get(self, name: str) -> Any:
        """One of them. None where the request has none such."""
        connection = self._connection
        match name:
            case "request":
                return connection
            case "body":
                return await self._body()
            case "path":
                return connection.url.path
            case "method":
                return connection.scope.get("method", "GET")
            case "scopes":
                return []
            case "headers":
                return HeaderBytes((key.lower(), value) for key, value in connection.scope["headers"])
            case "authorization":
                return connection.headers.get("authorization")
            case "path_params" | "query_params":
                return dict(getattr(connection, name))
            case "scope":
                return connection.scope
            case _:
                return None  # `user`: nobody yet

    async def _body(self) -> Any:
        """The JSON of the body. Bounded before: the request counts what comes in."""
        if not isinstance(self._connection, Request):
            return None
        raw = await self._connection.body()
        try:
            return json.loads(raw) if raw else None
        except ValueError:
            return None


def parse_principal(found: object) -> Principal:
    """The principal that `authenticate` returned. InvalidAuthResult, Unauthenticated.

    A user is a text, a mapping or an object. In older projects it comes as the second of a pair, after its scopes.
    """
    said = _mapping_of_pair(cast("tuple[object, ...]", found)) if isinstance(found, tuple) else _mapping(found)
    if said.get("is_authenticated", True) is not True:
        raise Unauthenticated("Unauthorized", challenge=CHALLENGE)
    identity, permissions = said.get("identity"), said.get("permissions") or ()
    if not isinstance(identity, str):
        raise InvalidAuthResult("authenticate returned no identity")
    if isinstance(permissions, (str, Mapping)) or not isinstance(permissions, Iterable):
        raise InvalidAuthResult("permissions are no list")
    try:
        user: dict[str, Any] = json.loads(json.dumps(said))
        granted = tuple(str(each) for each in cast("Iterable[object]", permissions))
        return principal(identity, str(said.get("display_name") or ""), granted, user=user)
    except ValueError as error:
        raise InvalidAuthResult(str(error)) from error


def _mapping_of_pair(found: tuple[object, ...]) -> dict[str, Any]:
    """A user with the scopes that stand before it: a list, or Starlette's AuthCredentials."""
    if hasattr(found, "_fields"):  # a named tuple is a user
        return _mapping(cast("Any", found)._asdict())
    if len(found) != 2:
        raise InvalidAuthResult(f"authenticate returned a tuple of {len(found)}; a pair is the scopes and the user")
    scopes, user = found
    return {**_mapping(user), "permissions": getattr(scopes, "scopes", scopes)}


def _mapping(found: object) -> dict[str, Any]:
    if isinstance(found, str):
        return {"identity": found}
    if isinstance(found, Mapping):
        return {str(key): value for key, value in cast("Mapping[object, Any]", found).items()}
    if isinstance(found, BaseModel):
        return found.model_dump()
    own: dict[str, Any] = {}
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        own = {each.name: getattr(found, each.name) for each in dataclasses.fields(found)}
    elif hasattr(found, "__dict__"):
        own = {name: value for name, value in vars(found).items() if not name.startswith("_")}
    usual = {name: value for name in DEFAULT_PARAMETERS if (value := _attribute(found, name)) is not None}
    return {"identity": usual.get("display_name"), **own, **usual}


def _attribute(found: object, name: str) -> Any:
    """An attribute; None where there is none. Starlette's own users have an `identity` that is not implemented."""
    try:
        return getattr(found, name, None)
    except NotImplementedError:
        return None


def parse_filters(result: object) -> Filters:
    """What a handler returned: None or True for everything, else what the metadata must hold. InvalidAuthResult.

    Only what jsonb's containment says exactly is understood: equality of a plain value, and membership in a list.
    """
    if result is None or result is True:
        return Filters({})
    if not isinstance(result, Mapping):
        raise InvalidAuthResult(
            f"a handler returned {type(result).__name__}, which is neither None, a bool nor a filter"
        )
    conditions = cast("Mapping[object, object]", result).items()
    return Filters({_key(key): _condition(condition) for key, condition in conditions})


def _key(key: object) -> str:
    if not isinstance(key, str) or key.startswith("$"):
        raise InvalidAuthResult(f"a filter has the key {key!r}; $or and $and are not supported")
    return key


def _condition(condition: object) -> object:
    if not isinstance(condition, Mapping):
        return _plain(condition)
    said = cast("Mapping[object, object]", condition)
    if len(said) != 1:
        raise InvalidAuthResult("a condition of a filter has one operator: $eq or $contains")
    [(operator, operand)] = said.items()
    if operator == "$eq":
        return _plain(operand)
    if operator == "$contains":
        several = isinstance(operand, (list, tuple, set, frozenset))
        return [_plain(each) for each in cast("Iterable[object]", operand if several else [operand])]
    raise InvalidAuthResult(f"a filter has the operator {operator!r}; there are $eq and $contains")


def _plain(value: object) -> object:
    """A value of which containment is equality."""
    if isinstance(value, UUID):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise InvalidAuthResult(
        f"a filter compares with {type(value).__name__}; texts, numbers, booleans and null are compared"
    )
