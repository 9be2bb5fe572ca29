"""Commands: `threadkeep serve`, `dev`, `new`, `check`, `dockerfile`, `migrate`, `adopt`, `backup`, `restore`, `keys` and others."""

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from threadkeep import __version__
from threadkeep.base.problems import StartupError

if TYPE_CHECKING:
    from threadkeep.preparing import Prepared

PROJECT_FILE = "langgraph.json"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Threadkeep: a self-hosted agent server for LangGraph graphs, which needs only Postgres."""


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
@click.option("--host", help="The address to listen on (HOST; 127.0.0.1).")
@click.option("--port", type=int, help="The port to listen on (PORT; 2024).")
@click.option(
    "--role",
    type=click.Choice(["all", "api", "worker"]),
    help="api: run no graphs. worker: run graphs and serve only health checks (THREADKEEP_ROLE; all).",
)
@click.option("--workers", type=int, help="The number of processes on the port (THREADKEEP_WORKERS; 1).")
def serve(config: Path | None, **options: Any) -> None:
    """Serve the graphs of a langgraph.json, or the built-in agent if there is none."""
    overrides = {name: value for name, value in options.items() if value is not None}
    with report_startup_errors():
        prepared = _prepared(config, overrides)

        if prepared.settings.workers > 1:
            from threadkeep import supervisor

            sys.exit(supervisor.supervise(prepared))

        from threadkeep import serving

        serving.serve(prepared)


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
@click.option("--host", help="The address to listen on (HOST; 127.0.0.1).")
@click.option("--port", type=int, help="The port to listen on (PORT; 2024).")
@click.option("--debug-port", type=int, help="Let a debugger connect to this port. Needs threadkeep[debug].")
@click.option("--wait-for-client", is_flag=True, help="Start after a debugger has connected.")
@click.option("--open", "open_page", is_flag=True, help="Open the console in a browser.")
def dev(config: Path | None, host: str | None, port: int | None, debug_port: int | None, **flags: bool) -> None:
    """Serve like `serve`, and reload the project after each change of its files.

    Runs in progress continue. Errors of graphs are shown in full.
    """
    overrides = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    if flags["wait_for_client"] and debug_port is None:
        raise click.UsageError("--wait-for-client needs --debug-port")
    with report_startup_errors():
        from threadkeep.commands.dev import DevOptions, develop

        develop(
            DevOptions(
                config=_project_file(config),
                # A developer needs the text of each error. In production it may contain data of others.
                overrides={**overrides, "expose_errors": True},
                debug_port=debug_port,
                wait_for_client=flags["wait_for_client"],
                open_page=flags["open_page"],
            )
        )


@main.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--template", type=click.Choice(["chat", "tools", "rag", "approval"]), default="chat", show_default=True)
def new(name: Path, template: str) -> None:
    """Write a small project into the folder NAME. It runs offline, and has a test."""
    from threadkeep.commands.new_project import create_project

    with report_startup_errors():
        for path in create_project(name, template):
            click.echo(f"  {path}")
    click.echo(f"\nNext:\n  cd {name}\n  threadkeep dev --open")


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def check(config: Path | None) -> None:
    """Load the project and its graphs, and look at the database. Exit with 1 if a server could not start."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import checking

        for line in checking.check(prepared):
            click.echo(line)
    click.secho("a server can start", fg="green")


@main.command()
@click.option("--output", type=click.Path(path_type=Path), help="The file to write. By default it is printed.")
@click.option("--base", help="The base image. By default that of langgraph.json, or Python's own.")
@click.option("--threadkeep", "requirement", help="What pip installs: a requirement, or a wheel in the build context.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def dockerfile(output: Path | None, base: str | None, requirement: str | None, config: Path | None) -> None:
    """Write a Dockerfile for the project of a langgraph.json, and a .dockerignore if there is none."""
    from threadkeep.base import logs
    from threadkeep.commands.dockerfile import ImageOptions, describe_image, missing_ignores, write_image
    from threadkeep.project import load_project

    logs.configure("warning", as_json=None)
    file = config or Path(PROJECT_FILE)
    with report_startup_errors():
        named = {"requirement": requirement} if requirement else {}
        image = describe_image(load_project(file), ImageOptions(base=base, config=file.name, **named))
        if output is None:
            click.echo(image.text, nl=False)
        for path in write_image(image, output) if output else ():
            click.echo(f"  {path}")
    if missing := missing_ignores(image):
        click.echo(f"Your .dockerignore lacks these lines: {' '.join(missing)}", err=True)
    for note in image.notes:
        click.echo(note, err=True)


@main.command()
@click.option("--check", is_flag=True, help="Change nothing. Exit with 1 if migrations are pending.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def migrate(config: Path | None, *, check: bool) -> None:
    """Bring the database's tables up to date."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep import serving

        if check:
            names = serving.pending(prepared)
            click.echo(f"to apply: {', '.join(names)}" if names else "up to date")
            sys.exit(1 if names else 0)
        applied = serving.migrate(prepared)
    lines = [f"{name} ({seconds:.1f} s)" if seconds >= 0.1 else name for name, seconds in applied.items()]
    click.echo(f"applied: {', '.join(lines)}" if lines else "up to date")


@main.command()
@click.option(
    "--from", "source", required=True, help="A postgresql:// URI of a database, or the URL of a running server."
)
@click.option("--graph", help="The graph of all threads. By default the one whose nodes they have run.")
@click.option("--owner", help="The identity that owns the threads and items, if the server authenticates callers.")
@click.option("--owner-key", help="The key of checkpoint metadata with a thread's owner, e.g. user_id.")
@click.option(
    "--only", multiple=True, help="Only threads whose id at the source matches this pattern, e.g. 'support-*'."
)
@click.option("--limit", type=click.IntRange(min=1), help="Take over at most this many threads in this call.")
@click.option("--api-key", help="The x-api-key of requests to a running server.")
@click.option("--header", "headers", multiple=True, help="A header of requests to a running server, 'name: value'.")
@click.option("--enable-crons", is_flag=True, help="Switch the crons on. By default they are taken over switched off.")
@click.option("--dry-run", is_flag=True, help="Change nothing. Tell what would be taken over.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def adopt(config: Path | None, headers: tuple[str, ...], **options: Any) -> None:
    """Take over existing threads with their history. Call it again to go on after an interruption.

    Servers may run meanwhile. Exits with 1 if something could not be taken over.
    """
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands.adopt import command
        from threadkeep.commands.adopt.options import AdoptOptions, parsed_headers

        report = command.adopt(prepared, AdoptOptions(headers=parsed_headers(headers), **options))
    for line in report.lines:
        click.echo(line)
    if report.skipped:
        sys.exit(1)


@main.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def backup(file: Path | None, config: Path | None, *, force: bool) -> None:
    """Write all threads, runs, store items and other rows of the server into FILE. Servers may go on meanwhile.

    The default FILE is threadkeep-DATE-TIME.dump. Only you can read it.
    """
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import backups

        click.echo(backups.backup(prepared, file, force=force))


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", "--clean", is_flag=True, help="Replace the threads and all other rows that are there.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def restore(file: Path, config: Path | None, *, force: bool) -> None:
    """Bring the rows of the backup FILE into the database. Stop all servers first."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import backups

        for line in backups.restore(prepared, file, force=force):
            click.echo(line)


@main.command("upgrade-postgres")
@click.option(
    "--old-programs", type=click.Path(path_type=Path), help="The folder of the PostgreSQL that made the data."
)
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def upgrade_postgres(old_programs: Path | None, config: Path | None) -> None:
    """Bring the data of the embedded Postgres to a new major version. Stop all servers first."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import backups

        click.echo(backups.upgrade_postgres(prepared, old_programs))


@main.group()
def keys() -> None:
    """Create, list and revoke API keys (AUTH_TYPE=api_key). Rotate encryption keys."""


@keys.command("create")
@click.option("--identity", required=True, help="The owner of the key, and of everything that is created with it.")
@click.option("--name", default="", help="A label for the key.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="An event that the key allows, e.g. threads.read or store.*. By default all.",
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True), help="By default it does not expire.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def create_key(
    identity: str, name: str, scopes: tuple[str, ...], expires_in_days: float | None, config: Path | None
) -> None:
    """Create a key and print it. It cannot be shown again, because only its hash is stored."""
    lives_s = expires_in_days * 86_400 if expires_in_days else None
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import key_commands

        click.echo(key_commands.create_key(prepared, identity, name, scopes, lives_s))


@keys.command("list")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def list_keys(config: Path | None) -> None:
    """List all keys without their secrets, including revoked ones."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import key_commands

        for line in key_commands.format_keys(prepared):
            click.echo(line)


@keys.command("revoke")
@click.argument("key")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def revoke_key(key: str, config: Path | None) -> None:
    """Revoke the KEY with this id or prefix. All servers refuse it within 5 seconds."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import key_commands

        click.echo(key_commands.revoke_key(prepared, key))


@keys.command("rotate-encryption")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def rotate_encryption(config: Path | None) -> None:
    """Encrypt all checkpoints with the first key of LANGGRAPH_AES_KEY, while servers are running.

    Exits with 1 if rows are left. Run it again, or check which key is missing.
    """
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep.commands import key_commands

        rows = key_commands.rotate_encryption(prepared)
    click.echo(f"encrypted with the new key: {rows.rotated}, already up to date: {rows.current}")
    if rows.changed or rows.unreadable:
        click.echo(f"in use, run this again: {rows.changed}, encrypted with a missing key: {rows.unreadable}", err=True)
        sys.exit(1)


@main.command()
@click.option("--url", help="The URL of a running server. By default one is started with its own database.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="The folder for the results.")
def bench(url: str | None, out: Path) -> None:
    """Repeat the workflow concurrency test: speed-up, contention, isolation, persistence."""
    import threadkeep_bench

    options: dict[str, Any] = {"url": url, "out": out}
    with report_startup_errors():
        sys.exit(threadkeep_bench.run(**options))


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


def _prepared(config: Path | None, overrides: Mapping[str, Any] | None = None) -> "Prepared":
    """Return the project and the settings. Slow imports come after this, so that mistakes in these are shown at once."""
    from threadkeep.preparing import prepare

    return prepare(_project_file(config), overrides or {})


def _project_file(config: Path | None) -> Path | None:
    """Return the project file: the named one, else the one in the working directory, else None."""
    if config is not None:
        return config
    return Path(PROJECT_FILE) if Path(PROJECT_FILE).is_file() else None


@contextmanager
def report_startup_errors() -> Generator[None]:
    """Print the reason of a refused start in one line, without a traceback, and exit with 1."""
    try:
        yield
    except StartupError as refused:
        click.secho(f"threadkeep: {refused}", fg="red", err=True)
        sys.exit(1)
