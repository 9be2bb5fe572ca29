"""CLI: `threadkeep serve`, `migrate`, `keys`, `bench`, `version`."""

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
    """Threadkeep: a self-hosted agent server for LangGraph graphs, on Postgres alone."""


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
@click.option("--host", help="The address to listen on (HOST; 127.0.0.1).")
@click.option("--port", type=int, help="The port to listen on (PORT; 2024).")
def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Serve the graphs of a langgraph.json, or, where there is none, the built-in agent."""
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    with report_startup_errors():
        prepared = _prepared(config, given)

        from threadkeep import serving

        serving.serve(prepared)


@main.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 where something is to be applied.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def migrate(config: Path | None, *, check: bool) -> None:
    """Bring the database's tables up to date."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep import serving

        names = serving.migrate(prepared, check=check)
    verb = "to apply" if check else "applied"
    click.echo(f"{verb}: {', '.join(names)}" if names else "up to date")
    if check and names:
        sys.exit(1)


@main.group()
def keys() -> None:
    """API keys, for AUTH_TYPE=api_key: make, list and revoke them. Keys of encryption: rotate them."""


@keys.command("create")
@click.option("--identity", required=True, help="Whose key it is: what is made with it is theirs.")
@click.option("--name", default="", help="To tell it from others.")
@click.option(
    "--scope", "scopes", multiple=True, help="What it is good for, e.g. threads.read, store.*; by default all."
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True), help="By default it does not expire.")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def create_key(
    identity: str, name: str, scopes: tuple[str, ...], expires_in_days: float | None, config: Path | None
) -> None:
    """Make a key and print it: this once, for only its hash is kept."""
    lives_s = expires_in_days * 86_400 if expires_in_days else None
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep import key_commands

        click.echo(key_commands.create_key(prepared, identity, name, scopes, lives_s))


@keys.command("list")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def list_keys(config: Path | None) -> None:
    """List all keys, revoked ones too; secrets are not among it."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep import key_commands

        for line in key_commands.format_keys(prepared):
            click.echo(line)


@keys.command("revoke")
@click.argument("key")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def revoke_key(key: str, config: Path | None) -> None:
    """Revoke the KEY of an id or a prefix; within 5 seconds it opens nothing any more."""
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep import key_commands

        click.echo(key_commands.revoke_key(prepared, key))


@keys.command("rotate-encryption")
@click.option("--config", type=click.Path(path_type=Path), help=f"The project file; by default ./{PROJECT_FILE}.")
def rotate_encryption(config: Path | None) -> None:
    """Encrypt all checkpoints with the first key of LANGGRAPH_AES_KEY, beside running servers.

    Exits with 1 if rows are left: run it again, or see which key is missing.
    """
    with report_startup_errors():
        prepared = _prepared(config)

        from threadkeep import key_commands

        rows = key_commands.rotate_encryption(prepared)
    click.echo(f"encrypted anew: {rows.rotated}, already up to date: {rows.current}")
    if rows.changed or rows.unreadable:
        click.echo(f"in use, to be done again: {rows.changed}, of a key that is not given: {rows.unreadable}", err=True)
        sys.exit(1)


@main.command()
@click.option("--url", help="A running server; by default one is started on a database of its own.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Where the results go.")
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


def _prepared(config: Path | None, given: Mapping[str, Any] | None = None) -> "Prepared":
    """The project and the settings. What is heavy is imported afterwards: a mistake in these is told at once."""
    from threadkeep.preparing import prepare

    return prepare(_project_file(config), given or {})


def _project_file(config: Path | None) -> Path | None:
    """The project file to read: the one named, else the folder's own, else none."""
    if config is not None:
        return config
    return Path(PROJECT_FILE) if Path(PROJECT_FILE).is_file() else None


@contextmanager
def report_startup_errors() -> Generator[None]:
    """Tell why the start was refused in a line, without a trace."""
    try:
        yield
    except StartupError as refused:
        click.secho(f"threadkeep: {refused}", fg="red", err=True)
        sys.exit(1)
