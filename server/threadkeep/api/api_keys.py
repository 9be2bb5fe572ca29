"""API keys: callers list and revoke their own keys. Only `threadkeep keys create` creates keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import MAX_OFFSET
from threadkeep.api.responses import json_response, no_content_response
from threadkeep.auth.api_keys import ApiKeyAuthenticator, hash_secret
from threadkeep.auth.authenticator import credentials
from threadkeep.base.problems import NotFound, ValidationFailed
from threadkeep.tables import api_keys
from threadkeep.tables.api_keys import ApiKey, KeyOwner


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnApiKey:
    """An API key of the caller, without the key itself, of which the database has only a hash."""

    key_id: UUID
    prefix: str
    """How the key begins."""
    name: str
    scopes: Sequence[str]
    """Empty: the key may do everything."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    is_current: bool
    """Whether this request was sent with the key."""


class ListQuery(BaseModel):
    """The query of a listing of keys."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=100, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)


async def search(call: AuthorizedRequest[None, ListQuery]) -> Response:
    """GET /api-keys: list your API keys, the newest first, including revoked keys.

    With a key that has scopes you see only that key. 404 if the server does not authenticate by API keys.
    """
    owner = _owner(call)
    async with call.state.pool.connection() as conn:
        # Keys have no owner metadata, so no filters apply. The owner is a condition of the statement.
        keys = await api_keys.list_of_owner(conn, owner, limit=call.query.limit, offset=call.query.offset)
    return json_response([_shown(key, is_current=is_current) for key, is_current in keys])


async def revoke(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /api-keys/{key_id}: revoke one of your API keys. It is refused within 5 seconds.

    With a key that has scopes you can revoke only that key. 404 if you have no valid key with this id.
    """
    owner = _owner(call)
    try:
        key_id = UUID(call.request.path_params["key_id"])
    except ValueError:
        raise ValidationFailed("Invalid key ID: must be a UUID") from None
    async with call.state.pool.connection() as conn:
        if not await api_keys.revoke_of_owner(conn, owner, key_id):
            raise NotFound(f"API key with ID {key_id} not found")
    return no_content_response()


def _owner(call: AuthorizedRequest[Any, Any]) -> KeyOwner:
    """Return the owner of the keys that the caller may see. Raise NotFound if the server does not use API keys."""
    principal = call.caller.principal
    if principal is None or not isinstance(call.caller.authenticator, ApiKeyAuthenticator):
        raise NotFound("this server does not authenticate by API keys")
    # A request of a graph has the user of its run, and its own credentials are ignored.
    current_sha256 = hash_secret(credentials(call.request)) if call.caller.slot is None else b""
    return KeyOwner(identity=principal.identity, current_sha256=current_sha256, is_limited=bool(principal.permissions))


def _shown(key: ApiKey, *, is_current: bool) -> OwnApiKey:
    return OwnApiKey(
        key_id=key.key_id,
        prefix=key.prefix,
        name=key.name,
        scopes=key.scopes,
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        revoked_at=key.revoked_at,
        is_current=is_current,
    )
