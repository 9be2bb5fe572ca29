"""Preparation of the start: read the project and the settings, and check the database, before slow modules are imported.

Mistakes in these are therefore shown at once.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threadkeep import project, settings
from threadkeep.base import libpq, logs
from threadkeep.base.problems import StartupError
from threadkeep.postgres import start_errors
from threadkeep.project import Project
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

CONNECT_S: Final = 5
"""Seconds that Postgres may take to answer at the start, unless its URI has a `connect_timeout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A project, the settings, and other values of the process's environment that the project's `env` must not change."""

    project: Project
    settings: Settings
    foreign: frozenset[str]
    """libpq's variables that only the project sets. They are for its graphs, not for the server."""
    trusted_proxies: str
    """Addresses whose `X-Forwarded-…` headers are trusted, separated by commas."""


def prepare(file: Path | None, overrides: Mapping[str, Any]) -> Prepared:
    """Configure logging and return the project and the settings. `overrides` have priority over the environment.

    Raise StartupError if one of these is not valid, or if the database does not answer.
    """
    # Twice: the project is read, and may be refused, before the settings are known.
    logs.configure(settings.early_log_level(), as_json=None)
    loaded_project = project.load_project(file) if file else project.from_environment() or project.builtin_project()
    # Read but not yet set, because the settings must tell the process's own variables from the project's.
    variables = project.variables(loaded_project)
    chosen = settings.load_settings(overrides, variables)
    if chosen.project is None:
        chosen = chosen.model_copy(update={"project": project.identity(loaded_project)})
    logs.configure(chosen.log_level, as_json=chosen.log_json, project=loaded_project.root)
    _log_origins(file, variables)
    project.refuse_replaced(loaded_project, strict=chosen.strict_persistence)
    prepared = Prepared(
        project=project.with_mount(loaded_project, chosen.mount_prefix, chosen.cors_allow_origins),
        settings=chosen,
        # Before `set_environment`, after which the origin of a variable can't be told.
        foreign=libpq.foreign_names(variables, settings.environment("PG")),
        trusted_proxies=settings.environment("FORWARDED_ALLOW_IPS").get("FORWARDED_ALLOW_IPS", "127.0.0.1"),
    )
    project.set_environment(loaded_project, variables)
    # LangGraph's imports take seconds. A wrong password is shown before them.
    _connect(chosen)
    return prepared


def _connect(chosen: Settings) -> None:
    """Raise StartupError if the operator's database refuses the connection, or cannot store every text."""
    for uri in (chosen.database_uri, chosen.database_direct_uri):
        if uri is not None:
            with (
                start_errors.in_a_line(uri),
                psycopg.connect(make_conninfo(patient(uri), client_encoding="UTF8"), autocommit=True) as conn,
            ):
                _check_encoding(conn)


def _check_encoding(conn: psycopg.Connection) -> None:
    row = conn.execute("SELECT current_setting('server_encoding'), current_database()").fetchone()
    if row is not None and row[0] != "UTF8":
        raise StartupError(
            f"the database {row[1]} has the encoding {row[0]}, which can't store every text: the server needs UTF8, as in "
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )


def _log_origins(file: Path | None, variables: Mapping[str, str]) -> None:
    """Log the sources of the settings, and the platform's names that have no effect."""
    if origins := settings.origins(variables):
        log.info("settings read", extra=origins)
    idle = settings.without_effect(variables) + (project.platform_names() if file else [])
    if idle:
        log.warning("variables without an effect on this server are ignored", extra={"variables": idle})


def patient(uri: str) -> str:
    """Return the URI with a `connect_timeout`, unless it has one."""
    return uri if "connect_timeout" in conninfo_to_dict(uri) else make_conninfo(uri, connect_timeout=CONNECT_S)
