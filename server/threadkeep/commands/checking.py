"""Check: whether a server could start, without starting one."""

from collections.abc import Generator, Mapping
from typing import Final

import anyio

from threadkeep import serving
from threadkeep.auth import loading
from threadkeep.postgres import pool, session, start_errors
from threadkeep.postgres.connection import Connection
from threadkeep.preparing import Prepared, patient
from threadkeep.settings import Role, Settings

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
        yield f"postgres  {anyio.run(_database, uri, chosen)}"
    pending = serving.pending(prepared)
    yield f"tables    {len(pending)} migrations will be applied at the start" if pending else "tables    up to date"


async def _database(uri: str, chosen: Settings) -> str:
    """The version and the connections of the database. StartupError if the server's processes may open more."""
    needed = chosen.max_connections * chosen.workers
    with start_errors.in_a_line(uri):
        pooler = await session.detect_pooler(uri)
        async with await Connection.connect(patient(uri), autocommit=True) as conn:
            version = conn.info.parameter_status("server_version")
            if pooler != "none":
                return f"{version}, behind a pooler, to which the server opens at most {needed} connections"
            usable = await pool.usable_connections(conn, chosen)
    return f"{version}, {usable} connections, of which the server uses at most {needed}"
