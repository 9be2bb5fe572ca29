"""libpq: addresses of Postgres, and the variables that libpq reads by itself.

A project's own `PG…` variables are for its graphs. They stand in the same process, so that every connection of the
server says itself what they would say otherwise.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

DATABASE_NAMES: Final = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
"""Any of these says that libpq's own variables describe the database."""
SCHEMES: Final = ("postgres", "postgresql")
NO_EMPTY_VALUE: Final[Mapping[str, str]] = {
    "connect_timeout": "0",
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}
"""Parameters that have no compiled default and take no empty text, with what they are without one."""
UNKNOWN: Final = re.compile(r'invalid (?:URI query parameter|connection option)(?:: | )"(\w+)"')
HINTS: Final[Mapping[str, str]] = {
    "schema": "; for a schema of its own say options=-csearch_path%3DNAME",
    "pgbouncer": "; leave it out",
}
"""What other programs' parameters are in libpq's words."""


def scheme(uri: str) -> str:
    """The scheme of an address without a driver's name; empty for a list of `name=value`."""
    return uri.split("://", 1)[0].split("+", 1)[0] if "://" in uri else ""


def is_postgres(uri: str) -> bool:
    """Whether an address names a Postgres, by its scheme."""
    return scheme(uri) in {*SCHEMES, ""}


def plain(uri: str) -> str:
    """The address without a driver's name (`postgresql+psycopg://`), which libpq does not know.

    ValueError where libpq can't read it; the text has nothing of the address but a parameter's name.
    """
    if "://" not in uri:
        return _read(uri)
    if not is_postgres(uri):
        raise ValueError("it is no address of a Postgres: that begins with postgresql://")
    return _read(f"{scheme(uri)}://{uri.split('://', 1)[1]}")


def _read(uri: str) -> str:
    try:
        conninfo_to_dict(uri)
    except psycopg.ProgrammingError as error:
        name = UNKNOWN.search(str(error))
        if name is None or "@" in uri.rpartition("?")[2]:  # else it may be a piece of a password
            raise ValueError("libpq can't read it") from None
        raise ValueError(f"libpq has no parameter {name[1]}{HINTS.get(name[1], '')}") from None
    return uri


def pinned(uri: str, foreign: Collection[str]) -> str:
    """The address with a value for each parameter that it leaves to one of the `foreign` variables."""
    if not foreign:
        return uri
    said = conninfo_to_dict(uri)
    everything = "PGSERVICE" in foreign  # a service fills in whatever is not said
    defaults: dict[str, str] = {}
    for option in pq.Conninfo.get_defaults():
        name, variable = option.keyword.decode(), (option.envvar or b"").decode()
        if variable and name not in {*said, "service"} and (everything or variable in foreign):
            defaults[name] = (option.compiled or b"").decode() or NO_EMPTY_VALUE.get(name, "")
    return make_conninfo(uri, **defaults)


def foreign_names(variables: Mapping[str, str], process: Mapping[str, str]) -> frozenset[str]:
    """The variables of libpq's that only the project's `env` sets."""
    known = {(option.envvar or b"").decode() for option in pq.Conninfo.get_defaults()}
    return frozenset(name for name in variables if name in known and name not in process)
