"""Multitenancy: restricts statements to the rows of a tenant, by their own conditions and by row-level security.

Every statement on a tenant's rows takes `Filters`, which only an authenticator creates. Each contains
`metadata @> %(match)s` and `project_id = %(project)s`, because all connections of a process belong to one project. A
connection for these filters switches to the role `threadkeep_tenant`. The policies in
`migrations/functions/row_level_security.sql` repeat both conditions for this role. So a statement without them still can't
see rows of another tenant. The role and its settings end with the transaction. A connection without filters is for the
server itself.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, cast

import anyio
import orjson
import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from threadkeep.base.problems import Forbidden, StartupError
from threadkeep.postgres.connection import Change, Connection
from threadkeep.postgres.session import Pooler

log = logging.getLogger(__name__)

Conn: TypeAlias = Connection

PATIENCE_S: Final = 120.0
"""The longest wait for a connection while other requests get one, because high load is not an outage."""

PROGRESS_CHECKS: Final = 5
"""Checks for progress before such a wait ends."""

LAST: Final = "\U0010ffff"
"""A string that sorts after every namespace."""


class Restriction(NamedTuple):
    """The settings that the policies compare a row with."""

    match: str
    """The metadata filter as JSON."""
    space_from: str
    """The first namespace of the caller's part of the store, by bytes."""
    space_to: str
    """The first namespace after that part."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The rows that a caller may see. Their metadata contains `metadata_filter`. If it is empty: all rows."""

    metadata_filter: Mapping[str, Any]
    store_prefix: str | None = None
    """The first label of the caller's namespaces in the store (`auth/ownership.py`). None: the whole store."""
    restriction: Restriction | None = field(init=False, repr=False, compare=False)
    """The settings of row-level security. None: all rows."""

    def __post_init__(self) -> None:
        # Once for each object, and not for each connection. The class is frozen, so an assignment is refused.
        object.__setattr__(self, "restriction", _restriction(self.metadata_filter, self.store_prefix))

    @property
    def jsonb(self) -> Jsonb:
        """The parameter `match` of a statement."""
        return Jsonb(self.metadata_filter)

    @property
    def owner_keys(self) -> list[str]:
        """The keys of metadata that contain the owner of a row."""
        return list(self.metadata_filter)

    def narrowed(self, other: "Filters") -> "Filters":
        """The rows that both filters allow. Forbidden if they contradict each other."""
        if other is self or other == self or not other.metadata_filter:
            return self
        if not self.metadata_filter:
            return other
        if any(self.metadata_filter.get(key, value) != value for key, value in other.metadata_filter.items()):
            raise Forbidden("these operations have different filters: send them in separate requests")
        return Filters({**self.metadata_filter, **other.metadata_filter}, self.store_prefix or other.store_prefix)

    def in_common(self, other: "Filters") -> "Filters":
        """The filters of a connection for statements with both filters. If they differ, only the statements' conditions apply."""
        return self if self == other else UNRESTRICTED

    def include(self, metadata: Mapping[str, Any]) -> bool:
        """Whether the caller may see a row with this metadata."""
        return _contains(metadata, self.metadata_filter)

    def with_owner(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` of a new row, with the owner keys added if the caller could not see the row without them."""
        return {**metadata} if self.include(metadata) else {**metadata, **self.metadata_filter}

    def merge_metadata(self, metadata: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` of the caller's row merged with `change`, without owner keys that would change the owner."""
        merged = {**metadata, **change}
        return merged if _contains(merged, self.metadata_filter) else {**metadata, **self.without_owner(change)}

    def without_owner(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` without the owner keys."""
        return {key: value for key, value in metadata.items() if key not in self.metadata_filter}


def _restriction(match: Mapping[str, Any], space: str | None) -> Restriction | None:
    if not match and space is None:
        return None
    # "/" sorts right after the period, which follows the label in all namespaces below it.
    bounds = ("", LAST) if space is None else (f"{space}.", f"{space}/")
    return Restriction(orjson.dumps(match).decode(), *bounds)


UNRESTRICTED: Final = Filters({})
"""All rows, for the server itself, and for all callers if authentication is off."""


def _contains(container: object, part: object) -> bool:
    """The result of `container @> part` in Postgres. False if the results might differ."""
    if isinstance(part, Mapping):
        return isinstance(container, Mapping) and all(
            key in container and _contains(cast("Mapping[str, object]", container)[key], value)
            for key, value in cast("Mapping[str, object]", part).items()
        )
    if isinstance(part, (list, tuple)):
        return isinstance(container, (list, tuple)) and all(
            any(_contains(element, part_element) for element in cast("Sequence[object]", container))
            for part_element in cast("Sequence[object]", part)
        )
    # In Python True equals 1. In jsonb it does not.
    return type(container) is type(part) and container == part


async def _restrict(conn: Conn, restriction: Restriction) -> None:
    """Begin a transaction that sees only the rows of `restriction`."""
    # The connection is in autocommit mode, and local settings need a transaction to end with.
    await conn.execute("BEGIN")
    await conn.execute(
        """
        SELECT set_config('threadkeep.project', %(project)s, true),
               set_config('threadkeep.metadata_filter', %(match)s, true),
               set_config('threadkeep.store_prefix_from', %(space_from)s, true),
               set_config('threadkeep.store_prefix_to', %(space_to)s, true),
               set_config('role', 'threadkeep_tenant', true)
        """,
        restriction._asdict() | {"project": conn.project_id},
    )


class TenantPool(AsyncConnectionPool[Conn]):
    """A pool whose connections see only the rows of their filters. A block with filters is one transaction."""

    project_id: str = ""
    """The project of the connections."""
    pooler: Pooler = "none"
    """The pooler between these connections and Postgres."""
    row_security = False
    """The database has the policies, and this process may switch to their role (`enable_row_security`)."""

    tell_changes: Callable[[Sequence[Change]], None] | None = None
    """Takes the changes of each connection that is given back. None: no process has a change stream."""
    _handed_out = 0
    """Connections that the pool has handed out so far."""

    async def getconn(self, timeout: float | None = None) -> Conn:  # noqa: ASYNC109 - psycopg's signature
        """Take a connection as psycopg's pool does. Without `timeout` the wait in its FIFO queue is at most `PATIENCE_S`."""
        conn = await (self._in_turn() if timeout is None else super().getconn(timeout))
        self._handed_out += 1
        conn.changes = None if self.tell_changes is None else []
        return conn

    async def putconn(self, conn: Conn) -> None:
        """Release a connection and announce its changes, because its transaction has ended."""
        # The pool may hand the connection to another task before `putconn` returns.
        changes, conn.changes = conn.changes, None
        await super().putconn(conn)
        if changes and self.tell_changes is not None:
            self.tell_changes(changes)

    async def _in_turn(self) -> Conn:
        """Wait for a connection. PoolTimeout if no request gets one for the `timeout` of the pool, in seconds.

        It checks several times, because a single check after the event loop was blocked would find no progress.
        """
        loop = asyncio.get_running_loop()
        handed_out, idle_checks = self._handed_out, 0

        def check_progress() -> None:
            nonlocal timer, handed_out, idle_checks
            idle_checks = idle_checks + 1 if handed_out == self._handed_out else 0
            handed_out = self._handed_out
            if idle_checks == PROGRESS_CHECKS:
                stalled.reschedule(loop.time())
            else:
                timer = loop.call_later(self.timeout / PROGRESS_CHECKS, check_progress)

        timer = loop.call_later(self.timeout / PROGRESS_CHECKS, check_progress)
        try:
            # Only `check_progress` sets a deadline, so a wait that makes progress is cancelled by nothing.
            async with asyncio.timeout(None) as stalled:
                return await super().getconn(PATIENCE_S)
        except TimeoutError:
            raise PoolTimeout(f"no connection became free within {self.timeout:.0f} s") from None
        finally:
            timer.cancel()

    def restriction(self, filters: Filters) -> Restriction | None:
        """The row-level security for `filters` on these connections. None: it is not used."""
        return filters.restriction if self.row_security else None

    def connection(  # pyright: ignore[reportIncompatibleMethodOverride] - psycopg's method takes only a timeout
        self, filters: Filters = UNRESTRICTED, *, timeout: float | None = None
    ) -> AbstractAsyncContextManager[Conn]:
        """A connection for a caller's rows. Without `filters` it is for the server itself."""
        restriction = self.restriction(filters)
        return super().connection(timeout) if restriction is None else self._restricted(restriction, timeout)

    @asynccontextmanager
    async def shielded(self, filters: Filters = UNRESTRICTED) -> AsyncGenerator[Conn]:
        """A connection whose block is finished even if its task is cancelled meanwhile.

        A cancellation in the middle of a statement closes the connection. So readers that are often cancelled, for example
        by a disconnect of the client, take their connections here. The block must be short, because nothing ends it early.
        """
        with anyio.CancelScope(shield=True):
            async with self.connection(filters) as conn:
                yield conn

    @asynccontextmanager
    async def _restricted(self, restriction: Restriction, wait_s: float | None) -> AsyncGenerator[Conn]:
        """Open a restricted connection. The pool commits the transaction at the end, or rolls it back after an exception."""
        async with super().connection(wait_s) as conn:
            async with conn.pipeline():  # one round trip for both statements
                await _restrict(conn, restriction)
            yield conn

    @asynccontextmanager
    async def pipeline(self, filters: Filters = UNRESTRICTED) -> AsyncGenerator[Conn]:
        """A connection whose statements in the block are one round trip and one transaction.

        Results can be read after the block. A row that the first statement locks stays locked until the last.
        """
        restriction = self.restriction(filters)
        async with super().connection() as conn, conn.pipeline():
            if restriction is None:
                yield conn
                return
            await _restrict(conn, restriction)
            yield conn
            # In the pipeline, so that the commit needs no further round trip.
            await conn.execute("COMMIT")


async def enable_row_security(*pools: TenantPool, tables: Sequence[str], needed: bool) -> None:
    """Turn on row-level security of the pools if all `tables` have it. Otherwise warn if it is `needed`.

    StartupError if the policies would hide rows from the server itself.
    """
    async with pools[0].connection() as conn:
        await _refuse_hidden_rows(conn, tables)
        obstacle = await _obstacle(conn, tables)
    for pool in pools:
        pool.row_security = obstacle is None
    if obstacle is not None and needed:
        log.warning(
            "row-level security is off: only the filters of statements separate tenants", extra={"reason": obstacle}
        )


async def _refuse_hidden_rows(conn: Conn, tables: Sequence[str]) -> None:
    """StartupError if the policies would hide rows from the server itself."""
    hidden = await conn.execute(
        """
        SELECT
          FROM unnest(%(tables)s::text[]) AS name
         WHERE row_security_active(to_regclass(name))
           AND (NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(name) AND polname = 'everybody')
                OR pg_has_role(to_regrole('threadkeep_tenant'), 'USAGE')) -- an heir gets the tenant's policies
        """,
        {"tables": list(tables)},
    )
    if hidden.rowcount:
        raise StartupError(
            "row-level security hides every row from this server's own database role: run `threadkeep migrate` as the "
            "owner of the tables, and let the role inherit nothing of threadkeep_tenant (ALTER ROLE ... NOINHERIT, then "
            "GRANT it again)"
        )


async def _obstacle(conn: Conn, tables: Sequence[str]) -> str | None:
    """The reason why row-level security can't be used. None if it can."""
    try:
        # The only way to learn whether this role may switch to the tenant's role.
        async with conn.transaction():
            await conn.execute("SELECT set_config('role', 'threadkeep_tenant', true)")
    except psycopg.Error as error:
        return error.diag.message_primary or type(error).__name__
    cursor = await conn.execute(
        """
        SELECT coalesce(string_agg(name, ', '), '')
          FROM unnest(%(tables)s::text[]) AS name
          LEFT JOIN pg_class ON pg_class.oid = to_regclass(name) -- so that a missing table counts too
         WHERE relrowsecurity IS NOT TRUE
            OR NOT has_table_privilege('threadkeep_tenant', pg_class.oid, 'DELETE') -- all rights are granted together
        """,
        {"tables": list(tables)},
    )
    row = await cursor.fetchone()
    return f"not on the tables {row[0]}" if row and row[0] else None
