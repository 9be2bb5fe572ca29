"""The command `threadkeep adopt`, without the parsing of its options."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio

from threadkeep import serving
from threadkeep.base.problems import StartupError
from threadkeep.commands.adopt import aegra, postgres_source, running_server, saver
from threadkeep.commands.adopt.options import AdoptOptions
from threadkeep.commands.adopt.report import Report
from threadkeep.commands.adopt.target import Target, open_target
from threadkeep.graphs import LoadedGraph
from threadkeep.postgres import start_errors
from threadkeep.preparing import Prepared
from threadkeep.progress import Step, progress

log = logging.getLogger(__name__)

POSTGRES: Final = ("postgresql://", "postgres://")


def adopt(prepared: Prepared, options: AdoptOptions) -> Report:
    """Take over what the options name, and return the report. StartupError if the source can't be read."""
    source_of(options.source)  # refuses other URIs before slow steps
    graphs = serving.load_graphs(prepared.project, prepared.settings)
    title = "Look for threads" if options.dry_run else "Adopt threads"
    with serving.open_database(prepared) as uri, progress(title, unit="threads") as step:
        report = anyio.run(take_over, prepared, uri, graphs, options, step)
    log.info("adopted", extra={"threads": report.taken["threads"], "skipped": len(report.skipped)})
    return report


Work = Callable[[Target, Step], Awaitable[None]]
"""Takes over everything from one source."""


def source_of(uri: str) -> Work:
    """The work for a URI. StartupError if no source has this kind of URI."""
    if uri.startswith(POSTGRES) or ("://" not in uri and "=" in uri):  # libpq also takes `host=... dbname=...`
        return _from_postgres
    if uri.startswith(("http://", "https://")):
        return _from_server
    raise StartupError("--from: it must be a postgresql:// URI of a database, or an http(s):// URL of a server")


async def take_over(
    prepared: Prepared, uri: str, graphs: Mapping[str, LoadedGraph], options: AdoptOptions, step: Step
) -> Report:
    """Take over what the options name into the database at `uri`."""
    work = source_of(options.source)
    report = Report(source="", dry_run=options.dry_run)
    with start_errors.in_a_line(uri):
        async with open_target(prepared, uri, graphs, options, report) as target:
            await work(target, step)
    return report


async def _from_postgres(target: Target, step: Step) -> None:
    async with postgres_source.open_source(target.options.source) as source:
        if await aegra.is_aegra(source):
            target.report.source = "Aegra's database"
            await aegra.adopt(target, source, step)
            return
        target.report.source = "the tables of LangGraph's saver"
        await saver.adopt(target, source, step)


async def _from_server(target: Target, step: Step) -> None:
    target.report.source = "a running server"
    async with running_server.open_server(target) as client:
        await running_server.adopt(target, client, step)
