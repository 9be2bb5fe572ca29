"""libpq: URIs of Postgres, and the environment variables that libpq reads itself.

A project's own `PG…` variables are for its graphs, but they are set in the same process. Every connection of the server
therefore sets these parameters explicitly.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

DATABASE_NAMES: Final = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
"""If one of these is set, libpq's own variables describe the database."""
SCHEMES: Final = ("postgres", "postgresql")
NO_EMPTY_VALUE: Final[Mapping[str, str]] = {
    "connect_timeout": "0",
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}
"""Parameter that has no compiled default and refuses an empty value -> the value that it has by default."""
UNKNOWN: Final = re.compile(r'invalid (?:URI query parameter|connection option)(?:: | )"(\w+)"')
HINTS: Final[Mapping[str, str]] = {
    "schema": ": to choose a schema, write options=-csearch_path%3DNAME",
    "pgbouncer": ": remove it",
}
"""Parameter of other programs -> a hint how to replace it for libpq."""


def scheme(uri: str) -> str:
    """Return the scheme of a URI without a driver's name. It is empty for a list of `name=value`."""
    return uri.split("://", 1)[0].split("+", 1)[0] if "://" in uri else ""


def is_postgres(uri: str) -> bool:
    """Whether a URI has the scheme of Postgres."""
    return scheme(uri) in {*SCHEMES, ""}


def plain(uri: str) -> str:
    """Return the URI without a driver's name (`postgresql+psycopg://`), which libpq does not know.

    Raise ValueError if libpq cannot read it. The text contains nothing of the URI except a parameter's name.
    """
    if "://" not in uri:
        return _read(uri)
    if not is_postgres(uri):
        raise ValueError("it is not the address of a Postgres: begin it with postgresql://")
    return _read(f"{scheme(uri)}://{uri.split('://', 1)[1]}")


def _read(uri: str) -> str:
    try:
        conninfo_to_dict(uri)
    except psycopg.ProgrammingError as error:
        name = UNKNOWN.search(str(error))
        if name is None or "@" in uri.rpartition("?")[2]:  # otherwise the name may be a part of a password
            raise ValueError("libpq can't read it") from None
        raise ValueError(f"libpq has no parameter {name[1]}{HINTS.get(name[1], '')}") from None
    return uri


def pinned(uri: str, foreign: Collection[str]) -> str:
    """Return the URI with an explicit value for each parameter that one of the `foreign` variables would set."""
    if not foreign:
        return uri
    parameters = conninfo_to_dict(uri)
    # `service` itself can't be unset: libpq looks for a service with an empty name, and fails.
    everything = "PGSERVICE" in foreign  # a service sets every parameter that the URI does not
    defaults: dict[str, str] = {}
    for option in pq.Conninfo.get_defaults():
        name, variable = option.keyword.decode(), (option.envvar or b"").decode()
        if variable and name not in {*parameters, "service"} and (everything or variable in foreign):
            defaults[name] = (option.compiled or b"").decode() or NO_EMPTY_VALUE.get(name, "")
    return make_conninfo(uri, **defaults)


def foreign_names(variables: Mapping[str, str], process: Mapping[str, str]) -> frozenset[str]:
    """Return libpq's variables that only the project's `env` sets."""
    libpq_variables = {(option.envvar or b"").decode() for option in pq.Conninfo.get_defaults()}
    return frozenset(name for name in variables if name in libpq_variables and name not in process)
