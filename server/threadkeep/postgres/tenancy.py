"""Tenancy: whose rows a statement may see, by its own condition and by row-level security behind it.

Every statement on a tenant's rows takes `Filters`, which only an authenticator makes: `metadata @> %(match)s` stands in
each, and `project_id = %(project)s` beside it, because all connections of a process are for one project. A connection that
is taken for the same filters switches to the role `threadkeep_tenant`, for which the policies of
`migrations/functions/row_level_security.sql` repeat both conditions, so that a statement without them still shows nobody
else's rows. Both the role and its settings end with the transaction. A connection that is taken without filters is the
server's own work.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, cast

import anyio
import orjson
import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from threadkeep.base.problems import Forbidden, StartupError
from threadkeep.postgres.connection import Connection
from threadkeep.postgres.session import Pooler

log = logging.getLogger(__name__)

Conn: TypeAlias = Connection

PATIENCE_S: Final = 120.0
"""The longest wait for a connection while others get theirs: many requests at once are slow, and no outage."""

LOOKS: Final = 5
"""How often it is looked, before such a wait ends, whether anybody gets a connection."""

LAST: Final = "\U0010ffff"
"""No namespace sorts after it."""


class Restriction(NamedTuple):
    """The settings that the policies compare a row with."""

    match: str
    """JSON."""
    space_from: str
    """The first namespace of the caller's part of the store, by bytes."""
    space_to: str
    """The first namespace after that part."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The rows that a caller may see: `match` is contained in the metadata of each. An empty `match` is all rows."""

    metadata_filter: Mapping[str, Any]
    store_prefix: str | None = None
    """The first label of the caller's namespaces in the store (`auth/ownership.py`); None: the whole store."""
    restriction: Restriction | None = field(init=False, repr=False, compare=False)
    """The settings of row-level security; None: all rows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "restriction", _restriction(self.metadata_filter, self.store_prefix))

    @property
    def jsonb(self) -> Jsonb:
        """The parameter `match` of a statement."""
        return Jsonb(self.metadata_filter)

    @property
    def owner_keys(self) -> list[str]:
        """The keys of metadata that say whose a row is."""
        return list(self.metadata_filter)

    def narrowed(self, other: "Filters") -> "Filters":
        """The rows that both let through. Forbidden if the two contradict each other."""
        if other == self or not other.metadata_filter:
            return self
        if not self.metadata_filter:
            return other
        if any(self.metadata_filter.get(key, value) != value for key, value in other.metadata_filter.items()):
            raise Forbidden("these permissions are for different rows")
        return Filters({**self.metadata_filter, **other.metadata_filter}, self.store_prefix or other.store_prefix)

    def in_common(self, other: "Filters") -> "Filters":
        """The filters of a connection whose statements use both. If they differ, the statements' conditions hold alone."""
        return self if self == other else UNRESTRICTED

    def include(self, metadata: Mapping[str, Any]) -> bool:
        """Whether the caller may see a row with this metadata."""
        return _contains(metadata, self.metadata_filter)

    def with_owner(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` of a new row, with `match` added unless the caller could see the row without it."""
        return {**metadata} if self.include(metadata) else {**metadata, **self.metadata_filter}

    def merge_metadata(self, metadata: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` of the caller's row with `change` merged in, without keys that would make it somebody else's."""
        merged = {**metadata, **change}
        return merged if _contains(merged, self.metadata_filter) else {**metadata, **self.without_owner(change)}

    def without_owner(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` without the keys that say whose a row is."""
        return {key: value for key, value in metadata.items() if key not in self.metadata_filter}


def _restriction(match: Mapping[str, Any], space: str | None) -> Restriction | None:
    if not match and space is None:
        return None
    # "/" sorts right after the period, which follows the label in all namespaces of a space.
    bounds = ("", LAST) if space is None else (f"{space}.", f"{space}/")
    return Restriction(orjson.dumps(match).decode(), *bounds)


UNRESTRICTED: Final = Filters({})
"""All rows: of the server's own work, and of everybody if authentication is off."""


def _contains(held: object, wanted: object) -> bool:
    """The result of `held @> wanted` in Postgres; False where the two might differ."""
    if isinstance(wanted, Mapping):
        return isinstance(held, Mapping) and all(
            key in held and _contains(cast("Mapping[str, object]", held)[key], value)
            for key, value in cast("Mapping[str, object]", wanted).items()
        )
    if isinstance(wanted, (list, tuple)):
        return isinstance(held, (list, tuple)) and all(
            any(_contains(element, each) for element in cast("Sequence[object]", held))
            for each in cast("Sequence[object]", wanted)
        )
    return type(held) is type(wanted) and held == wanted


async def _restrict(conn: Conn, restriction: Restriction) -> None:
    """Begin a transaction that sees only the rows of `restriction`."""
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
    """A pool whose connections see the rows of the filters they are taken for; such a block is one transaction."""

    project_id: str = ""
    """The project whose rows the connections are for."""
    pooler: Pooler = "none"
    """What stands between these connections and Postgres."""
    row_security = False
    """The database has the policies, and lets this process switch to their role (`enable_row_security`)."""

    _handed_out = 0
    """Connections that the pool has handed out so far."""

    async def getconn(self, timeout: float | None = None) -> Conn:  # noqa: ASYNC109 - the stock pool's own
        """As the stock pool's, but without `timeout` the wait in its FIFO queue is as long as `PATIENCE_S` says."""
        conn = await (self._in_turn() if timeout is None else super().getconn(timeout))
        self._handed_out += 1
        return conn

    async def _in_turn(self) -> Conn:
        """The next connection. PoolTimeout if nobody gets one for as long as `timeout` of the pool.

        It looks several times in that time: a single look, after the event loop has stood still, would find no progress.
        """
        loop = asyncio.get_running_loop()
        handed_out, looks = self._handed_out, 0

        def look() -> None:
            nonlocal timer, handed_out, looks
            looks = looks + 1 if handed_out == self._handed_out else 0
            handed_out = self._handed_out
            if looks == LOOKS:
                stalled.reschedule(loop.time())
            else:
                timer = loop.call_later(self.timeout / LOOKS, look)

        timer = loop.call_later(self.timeout / LOOKS, look)
        try:
            async with asyncio.timeout(None) as stalled:
                return await super().getconn(PATIENCE_S)
        except TimeoutError:
            raise PoolTimeout(f"no connection was given back for {self.timeout:.0f} s") from None
        finally:
            timer.cancel()

    def restriction(self, filters: Filters) -> Restriction | None:
        """What row-level security holds for `filters` on these connections; None: nothing."""
        return filters.restriction if self.row_security else None

    def connection(  # pyright: ignore[reportIncompatibleMethodOverride] - the stock one takes a timeout alone
        self, filters: Filters = UNRESTRICTED, *, timeout: float | None = None
    ) -> AbstractAsyncContextManager[Conn]:
        """A connection for a caller's rows; without `filters`, one for the server's own work."""
        restriction = self.restriction(filters)
        return super().connection(timeout) if restriction is None else self._restricted(restriction, timeout)

    @asynccontextmanager
    async def shielded(self, filters: Filters = UNRESTRICTED) -> AsyncGenerator[Conn]:
        """A connection whose block is finished though its task is cancelled meanwhile.

        A cancellation in the middle of a statement closes the connection. So a reader that many may cancel, such as one
        whose client leaves, takes its connections here. The block must be short: nothing ends it early.
        """
        with anyio.CancelScope(shield=True):
            async with self.connection(filters) as conn:
                yield conn

    @asynccontextmanager
    async def _restricted(self, restriction: Restriction, wait_s: float | None) -> AsyncGenerator[Conn]:
        """The stock pool commits the transaction at the end of the block, or rolls it back after an exception."""
        async with super().connection(wait_s) as conn:
            async with conn.pipeline():
                await _restrict(conn, restriction)
            yield conn

    @asynccontextmanager
    async def pipeline(self, filters: Filters = UNRESTRICTED) -> AsyncGenerator[Conn]:
        """A connection on which all statements until the end of the block are one round trip and one transaction.

        Results are read after the block. A row locked by the first statement stays locked until the last.
        """
        restriction = self.restriction(filters)
        async with super().connection() as conn, conn.pipeline():
            if restriction is None:
                yield conn
                return
            await _restrict(conn, restriction)
            yield conn
            await conn.execute("COMMIT")


async def enable_row_security(*pools: TenantPool, tables: Sequence[str], needed: bool) -> None:
    """Turn row-level security of the pools on if all `tables` have it; otherwise warn, if it is `needed`.

    StartupError if the policies would hide rows from the server itself.
    """
    async with pools[0].connection() as conn:
        obstacle = await _obstacle(conn, tables)
    for pool in pools:
        pool.row_security = obstacle is None
    if obstacle is not None and needed:
        log.warning("there is no row-level security behind the filters", extra={"reason": obstacle})


async def _obstacle(conn: Conn, tables: Sequence[str]) -> str | None:
    """Why row-level security can't be used; None: it can."""
    names = {"tables": list(tables)}
    hidden = await conn.execute(
        """
        SELECT
          FROM unnest(%(tables)s::text[]) AS name
         WHERE row_security_active(to_regclass(name))
           AND (NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(name) AND polname = 'everybody')
                OR pg_has_role(to_regrole('threadkeep_tenant'), 'USAGE'))
        """,
        names,
    )
    if hidden.rowcount:
        raise StartupError(
            "row-level security hides every row from this server's own database role: run `threadkeep migrate` as the "
            "owner of the tables, and let the role inherit nothing of threadkeep_tenant (ALTER ROLE ... NOINHERIT, then "
            "GRANT it again)"
        )
    try:
        async with conn.transaction():
            await conn.execute("SELECT set_config('role', 'threadkeep_tenant', true)")
    except psycopg.Error as error:
        return error.diag.message_primary or type(error).__name__
    cursor = await conn.execute(
        """
        SELECT coalesce(string_agg(name, ', '), '')
          FROM unnest(%(tables)s::text[]) AS name
          LEFT JOIN pg_class ON pg_class.oid = to_regclass(name)
         WHERE relrowsecurity IS NOT TRUE
            OR NOT has_table_privilege('threadkeep_tenant', pg_class.oid, 'DELETE')
        """,
        names,
    )
    row = await cursor.fetchone()
    return f"not on the tables {row[0]}" if row and row[0] else None
