"""Pooler: servers whose Postgres is behind PgBouncer in transaction mode."""

import os
import random
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from faults.findings import Findings
from faults.postgres import Postgres, own_postgres
from faults.servers import Place, Quick, free_port, program, replicas
from faults.traffic import Ledger, Talker, audit, settled

CLIENTS = 12
SESSIONS = 6
"""Fewer than the two servers would open by themselves."""

CONFIG = """
[databases]
threadkeep = host={host} port=5432 user=threadkeep

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 500
"""


async def scenario(place: Place, *, seconds: float = 4) -> Findings:
    """Two servers under load, every statement but those of LISTEN, heartbeat and migrations through the pooler."""
    findings = Findings(f"two servers behind PgBouncer in transaction mode with {SESSIONS} sessions, under load")
    if shutil.which("pgbouncer") is None:
        findings.skipped = "pgbouncer is not installed"
        return findings
    ledger, until = Ledger(), anyio.Event()
    async with own_postgres(place.folder) as postgres, pgbouncer(place.folder, postgres) as uri:
        await postgres.execute(
            # Sessions are shared, so the server's own settings of them can't be set at the connect. It demands them of
            # the role.
            "ALTER ROLE threadkeep SET timezone = 'UTC'",
            "ALTER ROLE threadkeep SET statement_timeout = '30s'",
        )
        settings = Quick().settings | {"DATABASE_DIRECT_URI": postgres.uri}
        async with replicas(Place(place.folder, uri), 2, settings) as fleet:
            async with anyio.create_task_group() as tasks:
                for number in range(CLIENTS):
                    talker = Talker(lambda: [replica.url for replica in fleet], ledger, chosen=random.Random(number))
                    tasks.start_soon(talker.talk, until)
                await anyio.sleep(seconds / 2)
                findings.figures["sessions of the pooler"] = await _sessions(postgres)
                await fleet[1].kill()
                await fleet[1].start()
                await anyio.sleep(seconds / 2)
                until.set()
            findings.expect(await settled(postgres.uri, 20), "a run that was acknowledged does not end")
            await audit(postgres.uri, fleet[0].url, ledger, findings)
    findings.expect("500" not in ledger.answered, "a client was answered 500")
    return findings


async def _sessions(postgres: Postgres) -> int:
    """Those that are not LISTEN's, the heartbeat's or this scenario's."""
    rows = await postgres.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = 'threadkeep'"
    )
    return int(rows[0][0])


@asynccontextmanager
async def pgbouncer(folder: Path, postgres: Postgres) -> AsyncGenerator[str]:
    """Run PgBouncer in front of `postgres` as the same user, and yield its URI."""
    port, user = free_port(), postgres.cluster.user
    config = postgres.socket_folder / "pgbouncer.ini"
    await anyio.Path(config).write_text(CONFIG.format(host=postgres.socket_folder, port=port, sessions=SESSIONS))
    if user.switch_to is not None:
        os.chown(config, user.switch_to, user.gid)
    group = None if user.switch_to is None else user.gid
    # Without the empty list the program keeps the groups of root.
    others = None if user.switch_to is None else []
    # The user may not be allowed to enter the folder of the tests.
    options = {"cwd": "/", "user": user.switch_to, "group": group, "extra_groups": others}
    command = ["pgbouncer", str(config)]
    async with program(command, port, folder / "log-pgbouncer", stop=signal.SIGKILL, **options):
        yield f"postgresql://threadkeep@127.0.0.1:{port}/threadkeep?sslmode=disable&gssencmode=disable"
