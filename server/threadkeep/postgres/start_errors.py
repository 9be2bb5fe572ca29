"""Start errors: turns database errors at the start into one line for the operator.

The messages of libpq and Postgres are clear without a traceback. They never contain a password, unless a part of a
password with `@` was parsed as the host.
"""

import logging
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import PoolTimeout

from threadkeep.base.problems import StartupError

log = logging.getLogger(__name__)

UNKNOWN_HOST: Final = re.compile(r"failed to resolve host|could not translate host name|Name or service not known")
HINTS: Final[tuple[tuple[str, str], ...]] = (
    (r"Connection refused|No such file or directory", "check that Postgres runs there"),
    (r"timeout expired|timed out|not receive", "check that this machine can reach it"),
    (r"too many (clients|connections)|connection slots", "close some, or raise max_connections"),
    (r'database ".*" does not exist', "create it with CREATE DATABASE"),
    (r"unsupported startup parameter", "the pooler accepts no options: set them with ALTER ROLE ... SET"),
    (r"no pg_hba\.conf entry", "allow it in pg_hba.conf"),
)
"""Patterns of messages of libpq and Postgres, and hints for the operator."""


@contextmanager
def in_a_line(uri: str) -> Generator[None]:
    """Turn a database error into StartupError. `uri` is the database that the block uses."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, ExceptionGroup) as error:  # task groups wrap the errors of their tasks
        leaves = list(_leaves(error))
        for refused in leaves:
            if isinstance(refused, StartupError):
                # A refusal already has a text for the operator, and explains more than the database error beside it.
                raise refused from None
        failure = next((leaf for leaf in leaves if isinstance(leaf, (psycopg.Error, PoolTimeout))), None)
        if failure is None:  # the group has only other faults, which need their traceback
            raise
        log.debug("the database can't be used", exc_info=error)
        raise StartupError(f"database{_place(uri)}: {_words(failure, uri)}") from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group at any depth."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _place(uri: str) -> str:
    """The host, port and database of a URI. Empty if the host may contain a part of a password."""
    fields = conninfo_to_dict(uri)
    host, port, name = fields.get("host"), fields.get("port"), fields.get("dbname")
    if not host or "@" in str(host):
        return ""
    return f" {host}" + (f":{port}" if port else "") + (f"/{name}" if name else "")


def _words(error: BaseException, uri: str) -> str:
    if isinstance(error, InsufficientPrivilege):
        return f"{_message(error)}: grant it to the role, or run `threadkeep migrate` as a role that has it"
    if isinstance(error, PoolTimeout):
        return "no connection was made in time: check that its max_connections is large enough"
    host = str(conninfo_to_dict(uri).get("host") or "")
    if UNKNOWN_HOST.search(str(error)):
        if "@" in host:
            return "its host is not known: write an @ in a user's name or a password as %40"
        return "its host is not known"
    message = _message(error)
    hint = next((hint for words, hint in HINTS if re.search(words, message)), None)
    return message + (f": {hint}" if hint else "")


def _message(error: BaseException) -> str:
    """The primary message of Postgres, else the last line of libpq's message."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Is the server running" not in line]
    last = lines[-1] if lines else type(error).__name__
    # libpq writes "connection to server ... failed: FATAL:  reason", or only one of the two prefixes.
    return re.sub(r"^.*?(?:FATAL|failed):\s+", "", re.sub(r"^.*?FATAL:\s+", "", last))
