"""Thread search: finds threads, a page at a time."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString, TypeAlias, cast
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.base import json
from threadkeep.base.json import RawJson
from threadkeep.postgres.bounded_page import PageRequest, SizedRow, bounded, sized
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.statement_timeout import search_connection
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.tables.threads import Thread

MAX_PATTERNS = 8
MAX_TITLED: Final = 1_000
"""Threads that a search by title finds. With 10,000, the statement that reads them took 150 ms."""
MAX_WORDS: Final = 20
SPECIAL, BACKSLASHED = r"[%_\\]", r"\\\g<0>"

Root: TypeAlias = Literal["values", "metadata", "config", "interrupts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFilter:
    """Selects threads. None selects all."""

    ids: Sequence[UUID] | None = None
    metadata: Mapping[str, Any] | None = None
    values: Mapping[str, Any] | None = None
    status: str | None = None

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "ids": None if self.ids is None else list(self.ids),
            "metadata": Jsonb(self.metadata or {}),
            "values": None if self.values is None else Jsonb(self.values),
            "words": like_patterns(self.values),
            "status": self.status,
        }


def like_patterns(value: object) -> list[str]:
    """LIKE patterns that match the text of every JSON that contains `value`: its longest keys and strings."""
    # Long words occur in the fewest threads, and each pattern reads the whole text.
    words = sorted(set(_words(value)), key=len, reverse=True)[:MAX_PATTERNS]
    # The column is JSON as text, so a word is searched for with its quotes and escapes.
    encoded = [json.dumps(word).decode() for word in words]
    return [f"%{re.sub(SPECIAL, BACKSLASHED, word)}%" for word in encoded]


def _words(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield key
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _words(inner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """A value to extract from a thread's JSON: a column, and the path of keys and indices in it."""

    alias: str
    root: Root
    path: Sequence[str]
    """An index may be negative. -1 is the last element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPageRequest:
    """Selects a page of threads and the parts of each thread."""

    order: tuple[str, str]
    """A key of `ORDERS`."""
    page: PageRequest
    with_values: bool = True
    """False skips `values`, because they may be large."""
    extract: Sequence[Extract] = ()

    @property
    def parameters(self) -> dict[str, object]:
        extracts = [{"alias": item.alias, "root": item.root, "path": list(item.path)} for item in self.extract]
        return self.page.parameters | {
            "with_values": self.with_values,
            "extract": Jsonb(extracts) if extracts else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadMatch(Thread):
    """A thread with its extracted values by alias."""

    extracted: RawJson | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of threads, and the number of all matches."""

    items: Sequence[SizedRow[Thread]]
    """`ThreadMatch` if values are extracted. `values` that are larger than the page limit are None."""
    total: int


ORDERS: Final[Mapping[tuple[str, str], LiteralString]] = {
    ("thread_id", "asc"): "thread_id ASC",
    ("thread_id", "desc"): "thread_id DESC",
    ("status", "asc"): "status ASC, thread_id ASC",
    ("status", "desc"): "status DESC, thread_id DESC",
    ("created_at", "asc"): "created_at ASC, thread_id ASC",
    ("created_at", "desc"): "created_at DESC, thread_id DESC",
    ("updated_at", "asc"): "updated_at ASC, thread_id ASC",
    ("updated_at", "desc"): "updated_at DESC, thread_id DESC",
    ("state_updated_at", "asc"): "state_updated_at ASC, thread_id ASC",
    ("state_updated_at", "desc"): "state_updated_at DESC, thread_id DESC",
}
"""(sort_by, sort_order) -> ORDER BY. The id as the last column makes pages stable."""


async def search(
    pool: Pool, filters: Filters, search: ThreadFilter, page_request: ThreadPageRequest, *, timeout_s: float
) -> Page:
    """A page of the matching threads and their number, in one round trip. SearchTimeout as in `search_connection`."""
    listing = sql.SQL(
        """
        SELECT thread_id, created_at, updated_at, state_updated_at, metadata, status, interrupts, error, title,
               CASE WHEN %(with_values)s AND pg_column_size("values") <= %(answer_bytes)s THEN "values" END AS "values",
               CASE WHEN %(with_values)s THEN coalesce(pg_column_size("values"), 0) ELSE 0 END AS values_bytes,
               (SELECT jsonb_object_agg(item.alias, CASE item.root WHEN 'values' THEN ("values" #> item.path)::jsonb
                                                                  WHEN 'metadata' THEN metadata #> item.path
                                                                  WHEN 'config' THEN '{{}}'::jsonb #> item.path
                                                                  WHEN 'interrupts' THEN interrupts #> item.path END)
                  FROM jsonb_to_recordset(%(extract)s) AS item(alias text, root text, path text[])) AS extracted
          FROM threads
         WHERE project_id = %(project)s AND metadata @> %(match)s
           AND metadata @> %(metadata)s
           AND (%(ids)s::uuid[] IS NULL OR thread_id = ANY(%(ids)s))
           AND (%(values)s::jsonb IS NULL
                OR CASE WHEN "values"::text LIKE ALL(%(words)s::text[]) THEN "values"::jsonb @> %(values)s END)
           AND (%(status)s::text IS NULL OR status = %(status)s)
           AND (ephemeral_until IS NULL OR status = 'busy') -- a stateless run is listed while it runs
         ORDER BY {order}
         LIMIT %(limit)s OFFSET %(offset)s
        """
    ).format(order=sql.SQL(ORDERS[page_request.order]))
    async with search_connection(pool, filters, timeout_s) as conn:
        counted = await _count(conn, filters, search)
        cursor = conn.cursor(row_factory=sized(ThreadMatch if page_request.extract else Thread))
        parameters = search.parameters | page_request.parameters | {"project": conn.project_id, "match": filters.jsonb}
        # `values` are not converted to text for their size. What is stored of them counts.
        columns = ("metadata", "interrupts", "error", "extracted")
        # A plan for any conditions would read every thread, because each condition may be absent.
        await cursor.execute(bounded(listing, *columns, apart="values_bytes"), parameters, prepare=False)
    # In the pipeline the result was not there yet.
    (total,) = await counted.fetchone() or (0,)
    return Page(items=await cursor.fetchall(), total=total)


async def find_by_title(
    pool: Pool, filters: Filters, query: str, search: ThreadFilter, *, timeout_s: float
) -> list[UUID]:
    """The newest `MAX_TITLED` threads whose title has a word that begins with each word of `query`. SearchTimeout.

    They have the ids, the status and the metadata of `search`. Its condition on values is left to the statement that reads
    the rows.

    Row-level security would keep Postgres from using the index, because a search for words is not leakproof. So this looks
    without it, by its own condition, and finds ids alone. The statement that reads the rows has it.
    """
    async with search_connection(pool, UNRESTRICTED, timeout_s) as conn:
        cursor = await conn.execute(
            """
            SELECT thread_id
              FROM threads
             WHERE project_id = %(project)s AND metadata @> %(match)s
               AND metadata @> %(metadata)s AND (%(status)s::text IS NULL OR status = %(status)s)
               AND (%(ids)s::uuid[] IS NULL OR thread_id = ANY(%(ids)s))
               AND (ephemeral_until IS NULL OR status = 'busy')
               AND title IS NOT NULL AND to_tsvector('simple', title) @@ to_tsquery('simple', %(words)s)
             ORDER BY created_at DESC
             LIMIT %(limit)s
            """,
            {
                "project": conn.project_id,
                "match": filters.jsonb,
                "metadata": Jsonb(search.metadata or {}),
                "status": search.status,
                "ids": None if search.ids is None else list(search.ids),
                "words": title_query(query),
                "limit": MAX_TITLED,
            },
            prepare=False,
        )
    return [row[0] for row in await cursor.fetchall()]


def title_query(query: str) -> str:
    """Every word of `query` as the beginning of a word, in the language of `to_tsquery`."""
    # In quotes, so that & and ! in a word are no operators.
    words = [word.replace("\\", "\\\\").replace("'", "''") for word in query.split()[:MAX_WORDS]]
    return " & ".join(f"'{word}':*" for word in words)


async def count(conn: Conn, filters: Filters, search: ThreadFilter) -> int:
    """The number of matching threads."""
    (total,) = await (await _count(conn, filters, search)).fetchone() or (0,)
    return total


async def _count(conn: Conn, filters: Filters, search: ThreadFilter) -> Any:
    return await conn.execute(
        """
        SELECT count(*)
          FROM threads
         WHERE project_id = %(project)s AND metadata @> %(match)s
           AND metadata @> %(metadata)s
           AND (%(ids)s::uuid[] IS NULL OR thread_id = ANY(%(ids)s))
           AND (%(values)s::jsonb IS NULL
                OR CASE WHEN "values"::text LIKE ALL(%(words)s::text[]) THEN "values"::jsonb @> %(values)s END)
           AND (%(status)s::text IS NULL OR status = %(status)s)
           AND (ephemeral_until IS NULL OR status = 'busy')
        """,
        search.parameters | {"project": conn.project_id, "match": filters.jsonb},
        prepare=False,
    )
