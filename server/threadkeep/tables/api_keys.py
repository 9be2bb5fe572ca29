"""API keys: the identity and scopes of each key. Only the hash of a secret is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A row of `api_keys`, without the hash."""

    key_id: UUID
    prefix: str
    name: str
    identity: str
    scopes: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidApiKey:
    """A key that authenticates a request now."""

    key_id: UUID
    name: str
    identity: str
    scopes: Sequence[str]
    expires_in_s: float | None
    """Seconds until it expires. None: it never expires."""
    recently_used: bool
    """A use within the last minute is already recorded."""
    has_others: bool
    """Other identities have valid keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key to create. It expires after `lifetime_s` seconds. None: it never expires."""

    key_id: UUID
    secret_sha256: bytes
    prefix: str
    name: str
    identity: str
    scopes: Sequence[str]
    lifetime_s: float | None


async def create(conn: Conn, new: NewApiKey) -> None:
    """Insert a key."""
    await conn.execute(
        """
        INSERT INTO api_keys (key_id, secret_sha256, prefix, name, identity, scopes, expires_at)
        VALUES (%(key_id)s, %(secret_sha256)s, %(prefix)s, %(name)s, %(identity)s, %(scopes)s,
                now() + make_interval(secs => %(lifetime_s)s)) -- NULL makes it NULL, so the key never expires
        """,
        {
            "key_id": new.key_id,
            "secret_sha256": new.secret_sha256,
            "prefix": new.prefix,
            "name": new.name,
            "identity": new.identity,
            "scopes": list(new.scopes),
            "lifetime_s": new.lifetime_s,
        },
    )


async def find_valid(conn: Conn, secret_sha256: bytes) -> ValidApiKey | None:
    """The key with a secret, or None if there is none, it was revoked, or it has expired."""
    cursor = conn.cursor(row_factory=rows.row_factory(ValidApiKey))
    await cursor.execute(
        """
        SELECT key_id, name, identity, scopes, extract(epoch FROM expires_at - now())::float AS expires_in_s,
               coalesce(last_used_at > now() - interval '1 minute', false) AS recently_used,
               EXISTS (SELECT
                         FROM api_keys AS other
                        WHERE other.identity <> api_keys.identity AND other.revoked_at IS NULL
                          AND (other.expires_at IS NULL OR other.expires_at > now())) AS has_others
          FROM api_keys
         WHERE secret_sha256 = %(secret_sha256)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,
        {"secret_sha256": secret_sha256},
    )
    return await cursor.fetchone()


async def record_use(conn: Conn, key_id: UUID) -> None:
    """Record the use of a key, at most once a minute."""
    # The caller has looked before. But several requests may come here at once, and one write is enough.
    await conn.execute(
        """
        UPDATE api_keys
           SET last_used_at = now()
         WHERE key_id = %(key_id)s AND (last_used_at IS NULL OR last_used_at <= now() - interval '1 minute')
        """,
        {"key_id": key_id},
    )


async def search(conn: Conn) -> list[ApiKey]:
    """All keys, also revoked ones, the newest first."""
    cursor = conn.cursor(row_factory=rows.row_factory(ApiKey))
    # Without a project: a key is valid for all projects of its database.
    await cursor.execute("SELECT * FROM api_keys ORDER BY created_at DESC, key_id DESC")
    return await cursor.fetchall()


async def revoke(conn: Conn, id_or_prefix: str) -> list[ApiKey]:
    """Revoke the keys with this id or prefix, and return those that were not revoked before."""
    cursor = conn.cursor(row_factory=rows.row_factory(ApiKey))
    # The argument may be no UUID, so the id is compared as text.
    await cursor.execute(
        """
        UPDATE api_keys
           SET revoked_at = now()
         WHERE (key_id::text = %(id_or_prefix)s OR prefix = %(id_or_prefix)s) AND revoked_at IS NULL
        RETURNING *
        """,
        {"id_or_prefix": id_or_prefix},
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOwner:
    """The caller of an operation on keys: an identity and its present key."""

    identity: str
    current_sha256: bytes
    """Of the secret that was shown. Empty: none was."""
    is_limited: bool
    """Its scopes limit this key, so it reaches no other one."""

    @property
    def parameters(self) -> dict[str, object]:
        return {"identity": self.identity, "current": self.current_sha256, "is_limited": self.is_limited}


async def list_of_owner(conn: Conn, owner: KeyOwner, *, limit: int, offset: int) -> list[tuple[ApiKey, bool]]:
    """The keys that `owner` may see, the newest first, and whether each is the one that was shown."""
    cursor = await conn.execute(
        """
        SELECT key_id, prefix, name, identity, scopes, created_at, expires_at, last_used_at, revoked_at,
               secret_sha256 = %(current)s AS is_current
          FROM api_keys
         WHERE identity = %(identity)s AND (NOT %(is_limited)s OR secret_sha256 = %(current)s)
         ORDER BY created_at DESC, key_id DESC
         LIMIT %(limit)s OFFSET %(offset)s
        """,
        owner.parameters | {"limit": limit, "offset": offset},
    )
    # A row has one column more than ApiKey, at its end.
    make = rows.row_factory(ApiKey)(cursor)
    return [(make(row), row[-1]) for row in await cursor.fetchall()]


async def revoke_of_owner(conn: Conn, owner: KeyOwner, key_id: UUID) -> bool:
    """Revoke a valid key that `owner` may see. False if there is none."""
    cursor = await conn.execute(
        """
        UPDATE api_keys
           SET revoked_at = now()
         WHERE key_id = %(key_id)s AND identity = %(identity)s AND revoked_at IS NULL
           AND (NOT %(is_limited)s OR secret_sha256 = %(current)s)
        """,
        owner.parameters | {"key_id": key_id},
    )
    return cursor.rowcount == 1
