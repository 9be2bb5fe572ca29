"""Tenants by JWT: colleagues share what their tenant has, and see nothing of another one.

A token says the user (`sub`) and the tenant. TOKEN_SECRET signs it. With an identity provider, give `jwt.decode` its public
key and RS256 in place of the secret. If each user is on their own, `AUTH_TYPE=jwt` does it without this file.
"""

import os
from typing import Any

import jwt
from langgraph_sdk import Auth

SECRET = os.environ["TOKEN_SECRET"]
AUDIENCE = "threadkeep"

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None) -> dict[str, Any]:
    """The user of a valid token. Every other request is refused."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Auth.exceptions.HTTPException(401, "a bearer token is needed")
    try:
        required = {"require": ["exp", "aud", "sub", "tenant"]}
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=AUDIENCE, options=required)
    except jwt.InvalidTokenError as error:
        raise Auth.exceptions.HTTPException(401, f"the token is not valid: {error}") from error
    return {"identity": f"{claims['tenant']}/{claims['sub']}", "tenant": claims["tenant"]}


@auth.on
async def keep_to_the_tenant(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
    """Mark what is made with its tenant, and find only what has the same mark."""
    tenant = {"tenant": ctx.user["tenant"]}
    value["metadata"] = {**(value.get("metadata") or {}), **tenant}
    return tenant


@auth.on.store
async def keep_items_apart(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> None:
    """Put each namespace below the tenant's own."""
    value["namespace"] = (ctx.user["tenant"], *(value.get("namespace") or ()))
