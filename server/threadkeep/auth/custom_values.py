"""Arguments for a project's authentication code, and the conversion of its results."""

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
    """A project's auth code returned an invalid value. Like its other exceptions, it is answered with 500 and no access."""


class HeaderBytes(dict[bytes, bytes]):
    """Headers as LangGraph passes them to `authenticate`: bytes. Keys may also be strings."""

    def __getitem__(self, name: bytes | str) -> bytes:
        return super().__getitem__(_bytes(name))

    def get(self, name: bytes | str, default: Any = None) -> Any:
        return super().get(_bytes(name), default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(_bytes(name) if isinstance(name, (bytes, str)) else name)


def _bytes(name: bytes | str) -> bytes:
    return (name.encode("latin-1", "replace") if isinstance(name, str) else name).lower()


class AuthenticateArguments:
    """The arguments that `authenticate` may have, by name."""

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
        """Return an argument by name, or None if the request does not have it."""
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
                return None  # `user`, which is not known yet

    async def _body(self) -> Any:
        """Return the body's JSON, or None. Its size was checked when it was read."""
        if not isinstance(self._connection, Request):
            return None
        raw = await self._connection.body()
        try:
            return json.loads(raw) if raw else None
        except ValueError:
            return None


def parse_principal(result: object) -> Principal:
    """Return the principal that `authenticate` returned. Raise InvalidAuthResult or Unauthenticated.

    A user is a string, a mapping or an object. Older projects return a pair of scopes and user.
    """
    fields = _mapping_of_pair(cast("tuple[object, ...]", result)) if isinstance(result, tuple) else _mapping(result)
    # Any other value than True refuses, also a string such as "false".
    if fields.get("is_authenticated", True) is not True:
        raise Unauthenticated("Unauthorized", challenge=CHALLENGE)
    identity, permissions = fields.get("identity"), fields.get("permissions") or ()
    if isinstance(identity, (int, UUID)) and not isinstance(identity, bool):  # the key of a user's row
        identity = fields["identity"] = str(identity)
    if not isinstance(identity, str):
        raise InvalidAuthResult("authenticate returned no identity")
    # A string is iterable too, and its characters would become permissions.
    if isinstance(permissions, (str, Mapping)) or not isinstance(permissions, Iterable):
        raise InvalidAuthResult("permissions are not a list")
    try:
        # The user is stored with runs as JSON. So each graph gets what another process would read.
        user: dict[str, Any] = json.loads(json.dumps(fields))
        granted = tuple(str(permission) for permission in cast("Iterable[object]", permissions))
        return principal(identity, str(fields.get("display_name") or ""), granted, user=user)
    except ValueError as error:
        raise InvalidAuthResult(str(error)) from error


def _mapping_of_pair(pair: tuple[object, ...]) -> dict[str, Any]:
    """Return the fields of a user in a pair, whose first part is a list of scopes or Starlette's AuthCredentials."""
    if hasattr(pair, "_fields"):  # a named tuple is a user
        return _mapping(cast("Any", pair)._asdict())
    if len(pair) != 2:
        raise InvalidAuthResult(f"authenticate returned a tuple of {len(pair)} values: return the scopes and the user")
    scopes, user = pair
    return {**_mapping(user), "permissions": getattr(scopes, "scopes", scopes)}


def _mapping(user: object) -> dict[str, Any]:
    if isinstance(user, str):
        return {"identity": user}
    if isinstance(user, Mapping):
        return {str(key): value for key, value in cast("Mapping[object, Any]", user).items()}
    if isinstance(user, BaseModel):
        return user.model_dump()
    # A class with `__slots__` has no `__dict__`, but its dataclass fields or its usual attributes.
    attributes: dict[str, Any] = {}
    if dataclasses.is_dataclass(user) and not isinstance(user, type):
        attributes = {field.name: getattr(user, field.name) for field in dataclasses.fields(user)}
    elif hasattr(user, "__dict__"):
        attributes = {name: value for name, value in vars(user).items() if not name.startswith("_")}
    usual = {name: value for name in DEFAULT_PARAMETERS if (value := _attribute(user, name)) is not None}
    # Starlette's SimpleUser has only a display name.
    return {"identity": usual.get("display_name"), **attributes, **usual}


def _attribute(user: object, name: str) -> Any:
    """Return an attribute, or None. Starlette's own users have an `identity` that raises NotImplementedError."""
    try:
        return getattr(user, name, None)
    except NotImplementedError:
        return None


def parse_filters(result: object) -> Filters:
    """Return the filters that a handler returned. None or True allow everything. Raise InvalidAuthResult.

    Only conditions that jsonb containment expresses exactly are supported: equality with a plain value, and membership
    in a list.
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
    # As a plain key it would match no row, and the author would not know why.
    if not isinstance(key, str) or key.startswith("$"):
        raise InvalidAuthResult(f"a filter has the key {key!r}: $or and $and are not supported")
    return key


def _condition(condition: object) -> object:
    if not isinstance(condition, Mapping):
        return _plain(condition)
    by_operator = cast("Mapping[object, object]", condition)
    if len(by_operator) != 1:
        raise InvalidAuthResult("a condition of a filter has one operator: $eq or $contains")
    [(operator, operand)] = by_operator.items()
    if operator == "$eq":
        return _plain(operand)
    if operator == "$contains":
        is_collection = isinstance(operand, (list, tuple, set, frozenset))
        return [_plain(item) for item in cast("Iterable[object]", operand if is_collection else [operand])]
    raise InvalidAuthResult(f"a filter has the operator {operator!r}: use $eq or $contains")


def _plain(value: object) -> object:
    """Return a value for which jsonb containment means equality."""
    if isinstance(value, UUID):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise InvalidAuthResult(f"a filter compares with {type(value).__name__}: use a string, number, boolean or null")
