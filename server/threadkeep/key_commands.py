"""Commands: `threadkeep keys`: what each does, beside reading its options."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import anyio

from threadkeep import serving
from threadkeep.auth.api_keys import generate_key
from threadkeep.base.problems import StartupError
from threadkeep.persistence import key_rotation
from threadkeep.persistence.encryption import AesGcmCipher
from threadkeep.persistence.key_rotation import Rotation
from threadkeep.postgres import migrate as migrations
from threadkeep.postgres.connection import Connection
from threadkeep.postgres.pool import Conn
from threadkeep.preparing import Prepared, patient
from threadkeep.tables import api_keys
from threadkeep.tables.api_keys import ApiKey

audit = logging.getLogger("threadkeep.audit")
T = TypeVar("T")
TABLE_HEADER = ("id", "prefix", "identity", "name", "scopes", "created", "expires", "last used", "state")


def create_key(prepared: Prepared, identity: str, name: str, scopes: tuple[str, ...], lives_s: float | None) -> str:
    """Make a key; its secret. StartupError where the identity or a scope is none."""
    try:
        secret, row = generate_key(identity, name, scopes, lives_s)
    except ValueError as error:
        raise StartupError(str(error)) from None
    _with_database(prepared, lambda conn: api_keys.create(conn, row))
    audit.info("key created", extra={"principal": row.identity, "prefix": row.prefix, "scopes": list(row.scopes)})
    return secret


def format_keys(prepared: Prepared) -> list[str]:
    """Every key, a line each, below a head."""
    table = [TABLE_HEADER, *(_shown(key) for key in _with_database(prepared, api_keys.search))]
    widths = [max(len(row[column]) for row in table) for column in range(len(TABLE_HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def revoke_key(prepared: Prepared, named: str) -> str:
    """Revoke a key; what was revoked. StartupError where there is none such."""
    revoked = _with_database(prepared, lambda conn: api_keys.revoke(conn, named))
    if not revoked:
        raise StartupError(f"there is no key {named} that could be revoked")
    for key in revoked:
        audit.info("key revoked", extra={"principal": key.identity, "prefix": key.prefix})
    return "revoked " + ", ".join(f"{key.prefix} of {key.identity}" for key in revoked)


def rotate_encryption(prepared: Prepared) -> Rotation:
    """Encrypt checkpoints with the first key of LANGGRAPH_AES_KEY. StartupError if there is none."""
    if not (keys := prepared.settings.aes_keys):
        raise StartupError("LANGGRAPH_AES_KEY is not set: there is no key to encrypt with")
    done = _with_database(prepared, lambda conn: key_rotation.rotate(conn, AesGcmCipher(keys)))
    audit.info("encryption keys rotated", extra={"rotated_rows": done.rotated, "unreadable_rows": done.unreadable})
    return done


def _shown(key: ApiKey) -> tuple[str, ...]:
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    state = "revoked" if key.revoked_at else "expired" if expired else "valid"
    times = (key.created_at, key.expires_at, key.last_used_at)
    created, expires, used = (f"{time:%Y-%m-%d %H:%M}" if time else "never" for time in times)
    scopes = ",".join(key.scopes) or "all"
    return (str(key.key_id), key.prefix, key.identity, key.name, scopes, created, expires, used, state)


def _with_database(prepared: Prepared, act: Callable[[Conn], Awaitable[T]]) -> T:
    """What `act` does on the project's database, brought up to date before."""
    with serving.open_database(prepared) as uri:
        return anyio.run(_acted, prepared.settings.database_direct_uri or uri, act)


async def _acted(uri: str, act: Callable[[Conn], Awaitable[T]]) -> T:
    await migrations.migrate(patient(uri))
    async with await Connection.connect(patient(uri), autocommit=True) as conn:
        return await act(conn)
