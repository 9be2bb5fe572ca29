"""The commands of `threadkeep keys`, without the parsing of their options."""

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
from threadkeep.progress import progress
from threadkeep.tables import api_keys
from threadkeep.tables.api_keys import ApiKey

audit = logging.getLogger("threadkeep.audit")
T = TypeVar("T")
TABLE_HEADER = ("id", "prefix", "identity", "name", "scopes", "created", "expires", "last used", "state")


def create_key(prepared: Prepared, identity: str, name: str, scopes: tuple[str, ...], lives_s: float | None) -> str:
    """Create a key and return its secret. Raise StartupError for an invalid identity or scope."""
    try:
        secret, row = generate_key(identity, name, scopes, lives_s)
    except ValueError as error:
        raise StartupError(str(error)) from None
    _with_database(prepared, lambda conn: api_keys.create(conn, row))
    audit.info("key created", extra={"principal": row.identity, "prefix": row.prefix, "scopes": list(row.scopes)})
    return secret


def format_keys(prepared: Prepared) -> list[str]:
    """Return a table of all keys: a header line and one line for each key."""
    table = [TABLE_HEADER, *(_table_row(key) for key in _with_database(prepared, api_keys.search))]
    widths = [max(len(row[column]) for row in table) for column in range(len(TABLE_HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def revoke_key(prepared: Prepared, key_name: str) -> str:
    """Revoke the keys with this id or prefix and return a message. Raise StartupError if there is none."""
    revoked = _with_database(prepared, lambda conn: api_keys.revoke(conn, key_name))
    if not revoked:
        raise StartupError(f"no active key has the id or prefix {key_name}")
    for key in revoked:
        audit.info("key revoked", extra={"principal": key.identity, "prefix": key.prefix})
    return "revoked " + ", ".join(f"{key.prefix} of {key.identity}" for key in revoked)


def rotate_encryption(prepared: Prepared) -> Rotation:
    """Encrypt checkpoints with the first key of LANGGRAPH_AES_KEY. Raise StartupError if there is no key."""
    if not (keys := prepared.settings.aes_keys):
        raise StartupError("LANGGRAPH_AES_KEY is not set: set it to the key that encrypts")
    with progress("Encrypt checkpoints", unit="rows") as step:
        rotation = _with_database(prepared, lambda conn: key_rotation.rotate(conn, AesGcmCipher(keys), step))
    audit.info(
        "encryption keys rotated", extra={"rotated_rows": rotation.rotated, "unreadable_rows": rotation.unreadable}
    )
    return rotation


def _table_row(key: ApiKey) -> tuple[str, ...]:
    # Only for this table. For requests, the clock of Postgres decides.
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    state = "revoked" if key.revoked_at else "expired" if expired else "valid"
    times = (key.created_at, key.expires_at, key.last_used_at)
    created, expires, used = (f"{time:%Y-%m-%d %H:%M}" if time else "never" for time in times)
    scopes = ",".join(key.scopes) or "all"
    return (str(key.key_id), key.prefix, key.identity, key.name, scopes, created, expires, used, state)


def _with_database(prepared: Prepared, act: Callable[[Conn], Awaitable[T]]) -> T:
    """Migrate the project's database, call `act` on a connection to it, and return the result."""
    with serving.open_database(prepared) as uri:
        return anyio.run(_migrate_and_act, prepared.settings.database_direct_uri or uri, act)


async def _migrate_and_act(uri: str, act: Callable[[Conn], Awaitable[T]]) -> T:
    # A key may be needed before the first start of a server.
    await migrations.migrate(patient(uri))
    async with await Connection.connect(patient(uri), autocommit=True) as conn:
        return await act(conn)
