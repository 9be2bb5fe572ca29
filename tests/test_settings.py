"""Settings: the variables of the environment."""

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from threadkeep import settings
from threadkeep.base.problems import StartupError


def test_address_that_libpq_cannot_read_stops_the_start_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: one line in place of a trace; what libpq says of an address may hold a part of it."""
    monkeypatch.setenv("DATABASE_URI", "postgresql://ada:secret@db/threadkeep?host=/run&secret")

    with pytest.raises(StartupError) as refused:
        settings.load_settings()

    assert str(refused.value) == "settings: DATABASE_URI: libpq can't read it"


APP = {
    "DATABASE_URL": "sqlite:///app.db",
    "DATABASE_URI": "mysql://app@db/app",
    "PGHOST": "db.app",
    "HOST": "0.0.0.0",  # noqa: S104 - that this is not taken is the point
    "PORT": "5000",
    "AUTH_TYPE": "oauth",
    "ALLOW_UNAUTHENTICATED": "perhaps",
    "LOG_LEVEL": "VERBOSE",
    "LOG_JSON": "/var/log/app.json",
    "MODEL": "mine",
}
"""What apps set for themselves."""


def test_generic_names_in_a_projects_env_are_the_projects() -> None:
    """Issue: they neither stop the start nor steer the server."""
    assert settings.load_settings(project=APP) == settings.load_settings()
    assert settings.origins(APP) == {"left_to_the_project": sorted(APP)}


def test_a_project_sets_the_server_by_its_own_names_and_the_platforms() -> None:
    """Issue: `THREADKEEP_…`, and what LangGraph's documentation names."""
    said = {
        "THREADKEEP_HOST": "127.0.0.2",
        "THREADKEEP_LOG_LEVEL": "WARN",
        "N_JOBS_PER_WORKER": "3",
        "POSTGRES_URI": "postgres://ada@db/a",
        "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS": "7",
        "MOUNT_PREFIX": "/pre",
    }
    chosen = settings.load_settings(project=APP | said)

    assert (chosen.host, chosen.log_level, chosen.run_slots) == ("127.0.0.2", "warning", 3)
    assert (chosen.drain_s, chosen.mount_prefix) == (7, "/pre")
    told = conninfo_to_dict(chosen.database_uri or "")
    assert told == {"user": "ada", "host": "db", "dbname": "a"}


def test_a_variable_of_the_process_goes_over_the_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: any name of a setting counts, and the log says which one was read from where."""
    monkeypatch.setenv("LOG_LEVEL", "critical")
    monkeypatch.setenv("DATABASE_URL", "postgresql://process@db/a")
    said = {"THREADKEEP_LOG_LEVEL": "debug", "DATABASE_URI": "postgresql://project@db/a", "MOUNT_PREFIX": "/pre"}
    chosen = settings.load_settings(project=said)

    assert (chosen.log_level, chosen.database_uri) == ("error", "postgresql://process@db/a")
    assert settings.origins(said) == {"from_process": ["DATABASE_URL", "LOG_LEVEL"], "from_project": ["MOUNT_PREFIX"]}


def test_libpq_of_the_server_is_not_told_what_is_for_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: `PGHOST` and its like in a project's env; those of the process count as before."""
    monkeypatch.setenv("PGUSER", "process")
    said = {"PGHOST": "app", "PGUSER": "app", "PGOPTIONS": "-csearch_path=app", "DATABASE_URI": "postgresql://db/a"}
    told = conninfo_to_dict(settings.load_settings(project=said).database_uri or "")
    assert told == {"host": "db", "dbname": "a", "options": ""}

    monkeypatch.setenv("PGDATABASE", "mine")
    told = conninfo_to_dict(settings.load_settings(project=said | {"DATABASE_URI": ""}).database_uri or "")
    assert told == {"host": "", "options": ""}


def test_a_setting_of_the_projects_that_is_misspelt_stops_the_start() -> None:
    """Ours: as one of the process."""
    with pytest.raises(
        StartupError, match="the setting THREADKEEP_RUN_SLOT is not known: did you mean THREADKEEP_RUN_SLOTS"
    ):
        settings.load_settings(project={"THREADKEEP_RUN_SLOT": "3"})


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:///app.db", "it is not the address of a Postgres: begin it with postgresql://"),
        ("mongodb+srv://h/a", "it is not the address of a Postgres: begin it with postgresql://"),
        ("postgresql://h/a?pgbouncer=true", "libpq has no parameter pgbouncer: remove it"),
        (
            "postgresql+asyncpg://h/a?schema=b",
            "libpq has no parameter schema: to choose a schema, write options=-csearch_path%3DNAME",
        ),
        ("postgresql://h/a?connection_limit=5", "libpq has no parameter connection_limit"),
        ("host=h pool=1", "libpq has no parameter pool"),
        ("postgresql://ada/pa?word=x@h/a", "libpq can't read it"),
    ],
)
def test_an_address_that_is_none_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, uri: str, reason: str) -> None:
    """Issue: an unknown parameter is named, and nothing of a password."""
    monkeypatch.setenv("DATABASE_URL", uri)
    with pytest.raises(StartupError) as refused:
        settings.load_settings()

    hint = ": if another program uses this variable, set DATABASE_URI, which has priority"
    assert str(refused.value) == f"settings: DATABASE_URL: {reason}{hint}"


@pytest.mark.parametrize(("limit", "sizes"), [("4", (1, 3)), ("2", (1, 1)), ("14", (6, 8)), ("150", (6, 8))])
def test_the_platforms_pool_size_bounds_both_pools(
    monkeypatch: pytest.MonkeyPatch, limit: str, sizes: tuple[int, int]
) -> None:
    """Ours: it makes them smaller, never larger."""
    monkeypatch.setenv("LANGGRAPH_POSTGRES_POOL_MAX_SIZE", limit)
    chosen = settings.load_settings()

    assert (chosen.api_connections, chosen.run_connections) == sizes


def test_names_of_the_platform_without_effect_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: one line; a switch that is off asks for nothing."""
    monkeypatch.setenv("BG_JOB_ISOLATED_LOOPS", "true")
    monkeypatch.setenv("REDIS_CLUSTER", "false")

    assert settings.without_effect({"REDIS_URI": "redis://r"}) == ["BG_JOB_ISOLATED_LOOPS", "REDIS_URI"]


def test_each_project_has_a_data_folder_of_its_own(tmp_path: Path) -> None:
    """Ours: unless a folder is set."""
    names = ["zoo", "Zoo", "zoo two", "zoo/two", "../zoo", "..", "動物園", "z" * 200]
    folders = {settings.Settings(project=name).data_path for name in names}

    assert len(folders) == len(names)
    assert {folder.parent for folder in folders} == {settings.user_data_path() / "projects"}
    assert settings.Settings(project="zoo", data_dir=tmp_path).data_path == tmp_path
