"""Checkpoint tables: copies the rows of a thread between the tables of LangGraph's saver, without decoding the values.

Rows go from one Postgres to the other by COPY, one at a time. So a thread may be larger than the memory, but a single value
may not. With LANGGRAPH_AES_KEY each value is encrypted on its way.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, LiteralString
from uuid import UUID

from anyio import to_thread
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from psycopg.rows import dict_row

from threadkeep.base import json
from threadkeep.commands.adopt.postgres_source import SourceConn
from threadkeep.persistence.group_commit import WriteSet, write_all
from threadkeep.persistence.state_limits import THREAD_OFFLOAD_BYTES
from threadkeep.postgres.pool import Conn

READ_CHECKPOINTS: Final[LiteralString] = """
    COPY (SELECT %(to)s::text, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
                 CASE WHEN metadata ? 'thread_id' THEN jsonb_set(metadata, '{thread_id}', to_jsonb(%(to)s::text))
                      ELSE metadata END
            FROM checkpoints
           WHERE thread_id = %(from)s) TO STDOUT (FORMAT BINARY)
"""
WRITE_CHECKPOINTS: Final[LiteralString] = """
    COPY checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    FROM STDIN (FORMAT BINARY)
"""
READ_BLOBS: Final[LiteralString] = """
    COPY (SELECT %(to)s::text, checkpoint_ns, channel, version, type, blob
            FROM checkpoint_blobs
           WHERE thread_id = %(from)s) TO STDOUT (FORMAT BINARY)
"""
WRITE_BLOBS: Final[LiteralString] = """
    COPY checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob) FROM STDIN (FORMAT BINARY)
"""
READ_WRITES: Final[LiteralString] = """
    COPY (SELECT %(to)s::text, checkpoint_ns, checkpoint_id, task_id, idx, channel, task_path, type, blob
            FROM checkpoint_writes
           WHERE thread_id = %(from)s) TO STDOUT (FORMAT BINARY)
"""
WRITE_WRITES: Final[LiteralString] = """
    COPY checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, task_path, type, blob)
    FROM STDIN (FORMAT BINARY)
"""
BLOB_TYPES: Final = ("text", "text", "text", "text", "text", "bytea")
WRITE_TYPES: Final = ("text", "text", "text", "text", "int4", "text", "text", "text", "bytea")
PAGE: Final = 20
"""Checkpoints that are read at once. Their primitive values are inside."""


async def copy_rows(
    source: SourceConn, conn: Conn, original_id: str, thread_id: UUID, encrypts: EncryptedSerializer | None
) -> None:
    """Copy all rows of a thread into the caller's transaction on `conn`. Values are encrypted if `encrypts` is given."""
    ids = {"from": original_id, "to": str(thread_id)}
    if encrypts is None:
        await _pipe(source, conn, ids, READ_BLOBS, WRITE_BLOBS)
        await _pipe(source, conn, ids, READ_WRITES, WRITE_WRITES)
        await _pipe(source, conn, ids, READ_CHECKPOINTS, WRITE_CHECKPOINTS)
        return
    await _pipe_encrypted(source, conn, ids, (READ_BLOBS, WRITE_BLOBS, BLOB_TYPES), encrypts)
    await _pipe_encrypted(source, conn, ids, (READ_WRITES, WRITE_WRITES, WRITE_TYPES), encrypts)
    async for rows in _checkpoints(source, ids, encrypts):
        await write_all(conn, [rows])


async def _pipe(
    source: SourceConn, conn: Conn, ids: Mapping[str, str], read: LiteralString, write: LiteralString
) -> None:
    async with source.cursor().copy(read, ids) as rows, conn.cursor().copy(write) as into:
        async for piece in rows:
            await into.write(piece)


async def _pipe_encrypted(
    source: SourceConn,
    conn: Conn,
    ids: Mapping[str, str],
    table: tuple[LiteralString, LiteralString, tuple[str, ...]],
    encrypts: EncryptedSerializer,
) -> None:
    """Copy rows whose last two columns are the type and the value."""
    read, write, types = table
    async with source.cursor().copy(read, ids) as rows, conn.cursor().copy(write) as into:
        rows.set_types(types)  # the binary format does not contain the types
        into.set_types(types)
        async for row in rows.rows():
            await into.write_row((*row[:-2], *await _encrypted(encrypts, *row[-2:])))


async def _encrypted(
    encrypts: EncryptedSerializer, kind: str | None, value: bytes | None
) -> tuple[str | None, bytes | None]:
    """The type and the value of a row. A value that is already encrypted, or is none, stays as it is."""
    # LangGraph's serializer names an encrypted value by its type, a plus sign and the cipher.
    if kind is None or kind == "empty" or "+" in kind or value is None:
        return kind, value
    # A large value would block the event loop, and a small one costs less than a thread.
    if len(value) > THREAD_OFFLOAD_BYTES:
        name, encrypted = await to_thread.run_sync(encrypts.cipher.encrypt, value)
    else:
        name, encrypted = encrypts.cipher.encrypt(value)
    return f"{kind}+{name}", encrypted


async def _checkpoints(
    source: SourceConn, ids: Mapping[str, str], encrypts: EncryptedSerializer
) -> AsyncGenerator[WriteSet]:
    """The checkpoints with their primitive values as encrypted blobs, in pages."""
    # A cursor with a name is one of the server. Otherwise all rows would be read at once.
    async with source.cursor("adopted_checkpoints", row_factory=dict_row) as cursor:
        cursor.itersize = PAGE
        await cursor.execute(
            """
            SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
              FROM checkpoints
             WHERE thread_id = %(from)s
            """,
            ids,
        )
        while rows := await cursor.fetchmany(PAGE):
            page = WriteSet(checkpoints=[], blobs=[])
            for row in rows:
                _add(page, row, ids["to"], encrypts)
            yield page


def _add(page: WriteSet, row: Mapping[str, Any], thread_id: str, encrypts: EncryptedSerializer) -> None:
    checkpoint: dict[str, Any] = row["checkpoint"]
    inline, blobs = _sealed(checkpoint, encrypts)
    prefix = (thread_id, row["checkpoint_ns"])
    page.blobs = [*page.blobs, *((*prefix, *blob) for blob in blobs)]
    metadata = {**row["metadata"], "thread_id": thread_id}
    texts = (json.dumps({**checkpoint, "channel_values": inline}).decode(), json.dumps(metadata).decode())
    page.checkpoints = [*page.checkpoints, (*prefix, row["checkpoint_id"], row["parent_checkpoint_id"], *texts)]


def _sealed(
    checkpoint: Mapping[str, Any], encrypts: EncryptedSerializer
) -> tuple[dict[str, Any], list[tuple[str, str, str, bytes]]]:
    """The values that stay in the checkpoint, and the others as encrypted blobs.

    None and booleans stay. `True` also marks a delta channel, whose value is a blob already.
    """
    versions: Mapping[str, Any] = checkpoint["channel_versions"]
    values: Mapping[str, Any] = checkpoint.get("channel_values") or {}
    inline: dict[str, Any] = {}
    blobs: list[tuple[str, str, str, bytes]] = []
    for channel, value in values.items():
        if value is None or isinstance(value, bool) or channel not in versions:
            inline[channel] = value
        else:
            blobs.append((channel, str(versions[channel]), *encrypts.dumps_typed(value)))
    return inline, blobs
