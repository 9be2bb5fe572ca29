"""A database of the source beside the server's, and the command in this process."""

from collections.abc import Iterator

import psycopg
import pytest

from adopt_apps import Adopt, served_graphs
from threadkeep.commands.adopt import command
from threadkeep.commands.adopt.options import AdoptOptions
from threadkeep.commands.adopt.report import Report
from threadkeep.preparing import Prepared
from threadkeep.progress import Step
from threadkeep.project import builtin_project
from threadkeep.settings import Settings

NAME = "test_adopt_source"


@pytest.fixture
def source(postgres: str) -> Iterator[str]:
    """The URI of an empty database."""
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {NAME}")
        yield psycopg.conninfo.make_conninfo(
            f"postgresql://{conn.info.user}@/{NAME}", host=conn.info.host, port=conn.info.port
        )


@pytest.fixture
def adopt(settings: Settings) -> Adopt:
    """Runs `threadkeep adopt` with the graphs of the application, and returns its report."""
    project = builtin_project()

    async def run(source: str, *, into: Settings = settings, **options: object) -> Report:
        prepared = Prepared(project=project, settings=into, foreign=frozenset(), trusted_proxies="")
        chosen = AdoptOptions(source=source, **options)  # pyright: ignore[reportArgumentType]
        step = Step(title="Adopt threads", total=None, unit="threads")
        return await command.take_over(prepared, str(into.database_uri), served_graphs(), chosen, step)

    return run
