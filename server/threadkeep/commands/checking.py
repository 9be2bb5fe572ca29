"""Check: whether a server could start, without starting one."""

from collections.abc import Generator, Mapping
from typing import Final

import psycopg

from threadkeep import serving
from threadkeep.auth import loading
from threadkeep.base.problems import StartupError
from threadkeep.postgres import start_errors
from threadkeep.preparing import Prepared, patient
from threadkeep.settings import Role

ROLES: Final[Mapping[Role, str]] = {
    "all": "all: it serves the API and runs graphs",
    "api": "api: it serves the API, and runs wait for processes of the role worker or all",
    "worker": "worker: it runs graphs and serves only health checks",
}


def check(prepared: Prepared) -> Generator[str]:
    """Yield a line for each part that was found in order. Raise StartupError at the first that is not."""
    project, chosen = prepared.project, prepared.settings
    yield f"project   {chosen.project_id}, in {project.root}" if not project.builtin else "project   the built-in agent"
    loading.check_start(chosen, project)
    yield f"role      {ROLES[chosen.role]}{f', in {chosen.workers} processes' if chosen.workers > 1 else ''}"
    yield f"callers   {loading.auth_type_of(chosen, project)}"
    loaded = serving.load_graphs(project, chosen)
    serving.check_targets(prepared)
    yield f"graphs    {', '.join(sorted(loaded))}"
    with serving.open_database(prepared) as uri:
        yield f"postgres  {_database(uri, chosen.max_connections * chosen.workers)}"
    pending = serving.pending(prepared)
    yield f"tables    {len(pending)} migrations will be applied at the start" if pending else "tables    up to date"


def _database(uri: str, needed: int) -> str:
    """The version of the database. StartupError if it has too few connections for the server's processes."""
    with start_errors.in_a_line(uri), psycopg.connect(patient(uri), autocommit=True) as conn:
        row = conn.execute(
            """
            SELECT current_setting('server_version') AS version,
                   current_setting('max_connections')::int AS connections
            """
        ).fetchone()
    version, connections = row if row is not None else ("", 0)
    if connections < needed:
        raise StartupError(
            f"Postgres allows {connections} connections, and the server may use {needed}: raise max_connections"
        )
    return f"{version}, {connections} connections, of which the server uses at most {needed}"
