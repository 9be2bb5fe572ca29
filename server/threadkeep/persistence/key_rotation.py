"""Key rotation: encrypts all values with the first key of LANGGRAPH_AES_KEY.

It can run while servers are running. A row is changed only if it still has the bytes that were read, and locked rows are
skipped. So a rotation never waits and never overwrites newer values. A second pass finds skipped rows, and rows that were
copied from rows that were not rotated yet. An interrupted rotation can be started again, because it skips rows that
already use the first key.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, LiteralString
from uuid import UUID

from anyio import to_thread
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from threadkeep.persistence.encryption import AesGcmCipher, DecryptionFailed, open_with, seal_with
from threadkeep.postgres.pool import Conn
from threadkeep.progress import Step

TABLES: Final[Mapping[LiteralString, tuple[LiteralString, ...]]] = {
    "checkpoint_blobs": ("thread_id", "checkpoint_ns", "channel", "version"),
    "checkpoint_writes": ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"),
    "run_undo_log": ("run_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"),
}
"""The tables that hold encrypted values, with their primary keys."""
SECRETS: Final = ("token", "credentials")
"""The encrypted columns of `task_pushes`."""
BATCH_ROWS: Final = 200
BATCH_BYTES: Final = 8 * 1024 * 1024
"""The most bytes of values in one batch, unless a single value is larger."""
MAX_PASSES: Final = 5


@dataclass(slots=True)
class Rotation:
    """Counts of one pass, in rows."""

    current: int = 0
    """Rows that already use the first key."""
    rotated: int = 0
    """Rows that were encrypted with the first key."""
    changed: int = 0
    """Rows that were locked, changed or deleted meanwhile. The next pass reads them again."""
    unreadable: int = 0
    """Rows that no key can decrypt. They are not changed."""


async def rotate(conn: Conn, cipher: AesGcmCipher, step: Step | None = None) -> Rotation:
    """Encrypt all values with the first key. `rotated` counts all passes, and the other counts only the last one.

    `step` is told how many rows were read, and of which table.
    """
    rotated, counts = 0, Rotation()
    for _ in range(MAX_PASSES):
        counts = Rotation()
        for table, key in TABLES.items():
            async for batch in _batches(conn, table, key):
                await _rotate_batch(conn, cipher, table, batch, counts)
                if step is not None:
                    step(len(batch), table)
        await _rotate_pushes(conn, cipher, counts)
        rotated += counts.rotated
        if not counts.rotated and not counts.changed:
            break
    counts.rotated = rotated
    return counts


async def _batches(conn: Conn, table: LiteralString, key: tuple[LiteralString, ...]) -> AsyncGenerator[list[DictRow]]:
    """Yield batches of rows with a value, in the order of the primary key."""
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    # The first row always fits. Others are left out after the byte limit, so that large values do not fill the memory.
    select = sql.SQL(
        """
        SELECT {columns}, type, blob
          FROM (SELECT {columns}, type, blob,
                       sum(octet_length(blob)) OVER (ORDER BY {columns} ROWS UNBOUNDED PRECEDING) - octet_length(blob)
                       AS bytes_before
                  FROM (SELECT {columns}, type, blob
                          FROM {table}
                         WHERE type IS NOT NULL AND type <> 'empty' AND blob IS NOT NULL AND {condition}
                         ORDER BY {columns}
                         LIMIT %(rows)s) AS next) AS sized
         WHERE bytes_before < %(bytes)s
         ORDER BY {columns}
        """
    )
    condition, last_key = sql.SQL("TRUE"), dict[str, Any]()
    while True:
        query = select.format(columns=columns, table=sql.Identifier(table), condition=condition)
        async with conn.cursor(row_factory=dict_row, binary=True) as cursor:
            await cursor.execute(query, {**last_key, "rows": BATCH_ROWS, "bytes": BATCH_BYTES})
            batch = await cursor.fetchall()
        if not batch:
            return
        yield batch
        condition, last_key = _after(key), {name: batch[-1][name] for name in key}


def _after(key: tuple[LiteralString, ...]) -> sql.Composed:
    """The condition for the rows after the last one of a batch."""
    separator = sql.SQL(", ")
    return sql.SQL("({columns}) > ({values})").format(
        columns=separator.join(map(sql.Identifier, key)), values=separator.join(map(sql.Placeholder, key))
    )


async def _rotate_batch(
    conn: Conn, cipher: AesGcmCipher, table: LiteralString, batch: list[DictRow], counts: Rotation
) -> None:
    """Encrypt the rows of a batch in one transaction."""
    changes = await to_thread.run_sync(_reencrypted, cipher, batch, counts)
    if not changes:
        return
    key = sql.SQL(" AND ").join(
        sql.SQL("{column} = {value}").format(column=sql.Identifier(name), value=sql.Placeholder(name))
        for name in TABLES[table]
    )
    # UPDATE can't skip locked rows, so a subquery locks them. The hash stands for the old bytes, which may be large.
    update = sql.SQL(
        """
        UPDATE {table} SET type = %(new_type)s, blob = %(new_blob)s
         WHERE ctid = (SELECT ctid
                         FROM {table}
                        WHERE {key} AND type = %(type)s AND sha256(blob) = %(sha256)s
                          FOR UPDATE SKIP LOCKED)
        """
    ).format(table=sql.Identifier(table), key=key)
    async with conn.transaction():
        for change in changes:
            cursor = await conn.execute(update, change, binary=True)
            counts.rotated += cursor.rowcount
            counts.changed += 1 - cursor.rowcount


async def _rotate_pushes(conn: Conn, cipher: AesGcmCipher, counts: Rotation) -> None:
    """Encrypt the secrets of push notification configs."""
    last_key: dict[str, Any] = {"chain_id": UUID(int=0), "config_id": ""}
    while True:
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                """
                SELECT chain_id, config_id, token, credentials
                  FROM task_pushes
                 WHERE (token IS NOT NULL OR credentials IS NOT NULL)
                   AND (chain_id, config_id) > (%(chain_id)s, %(config_id)s)
                 ORDER BY chain_id, config_id
                 LIMIT %(rows)s
                """,
                {**last_key, "rows": BATCH_ROWS},
            )
            batch = await cursor.fetchall()
        if not batch:
            return
        for row in batch:
            await _rotate_push(conn, cipher, row, counts)
        last_key = {name: batch[-1][name] for name in last_key}


async def _rotate_push(conn: Conn, cipher: AesGcmCipher, row: DictRow, counts: Rotation) -> None:
    try:
        opened = {name: open_with(cipher, row[name]) for name in SECRETS if row[name] is not None}
    except DecryptionFailed:
        counts.unreadable += 1
        return
    if all(position == 0 for _, position in opened.values()):
        counts.current += 1
        return
    sealed = {f"new_{name}": seal_with(cipher, opened[name][0]) if name in opened else None for name in SECRETS}
    cursor = await conn.execute(
        """
        UPDATE task_pushes
           SET token = %(new_token)s, credentials = %(new_credentials)s
         WHERE chain_id = %(chain_id)s AND config_id = %(config_id)s
           AND token IS NOT DISTINCT FROM %(token)s AND credentials IS NOT DISTINCT FROM %(credentials)s
        """,
        {**row, **sealed},
    )
    counts.rotated += cursor.rowcount
    counts.changed += 1 - cursor.rowcount


def _reencrypted(cipher: AesGcmCipher, batch: list[DictRow], counts: Rotation) -> list[dict[str, Any]]:
    """The changes of the rows that are not encrypted with the first key."""
    changes: list[dict[str, Any]] = []
    for row in batch:
        kind, _, cipher_name = row["type"].partition("+")
        try:
            # -1 for a value that is not encrypted yet.
            plain, position = cipher.decrypt_and_locate(cipher_name, row["blob"]) if cipher_name else (row["blob"], -1)
        except DecryptionFailed:
            counts.unreadable += 1
            continue
        if position == 0:
            counts.current += 1
            continue
        name, encrypted = cipher.encrypt(plain)
        digest = sha256(row["blob"]).digest()
        # The update does not need the old bytes, which may be large.
        del row["blob"]
        changes.append({**row, "sha256": digest, "new_type": f"{kind}+{name}", "new_blob": encrypted})
    return changes
