"""Sealing keys: secrets that the processes of a project share, one for each purpose."""

from typing import Final

from threadkeep.postgres.pool import Conn

KEY_BYTES: Final = 32


async def get_or_create(conn: Conn, purpose: str, new_key: bytes) -> bytes:
    """The project's key for a purpose. The first caller's `new_key` becomes the key."""
    await conn.execute(
        """
        INSERT INTO sealing_keys (project_id, purpose, key)
        VALUES (%(project)s, %(purpose)s, %(key)s)
        ON CONFLICT (project_id, purpose) DO NOTHING
        """,
        {"project": conn.project_id, "purpose": purpose, "key": new_key},
    )
    # DO NOTHING returns no row. A separate statement also sees the key of a process that was quicker.
    cursor = await conn.execute(
        "SELECT key FROM sealing_keys WHERE project_id = %(project)s AND purpose = %(purpose)s",
        {"project": conn.project_id, "purpose": purpose},
    )
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("the key was deleted while it was created")
    return bytes(row[0])
