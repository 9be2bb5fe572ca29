"""Settings: the only reader of the environment.

Read once, frozen, handed down as a parameter. An unknown `THREADKEEP_` name stops the start: a setting that is
misspelt is a setting that is not in force.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from threadkeep.problems import StartRefused

LIBPQ_NAMES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")
"""Any of these says that libpq's own variables describe the database."""

Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """What the operator set; every field's environment names are its aliases."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True)

    database_uri: str | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URI", "POSTGRES_URI", "DATABASE_URL")
    )
    """Postgres to use. None: the embedded one, in `data_dir`."""
    database_direct_uri: str | None = Field(default=None, validation_alias="DATABASE_DIRECT_URI")
    """The same database past a transaction pooler, for LISTEN; where set, `database_uri` gets no prepared statements."""
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("threadkeep"), validation_alias="THREADKEEP_DATA_DIR"
    )
    """Where the embedded Postgres keeps its data."""

    run_slots: int = Field(
        default=12, ge=1, le=1000, validation_alias=AliasChoices("THREADKEEP_RUN_SLOTS", "N_JOBS_PER_WORKER")
    )
    """Graphs that run at once in this process."""
    max_waiting: int = Field(default=1000, ge=0, validation_alias="THREADKEEP_MAX_WAITING")
    """Requests that wait for a slot; one more is answered 503."""
    queue_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_QUEUE_TIMEOUT")
    """The longest wait for a slot, in seconds; then 503."""
    query_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_QUERY_TIMEOUT")
    """The time limit of `/query`, in seconds, waiting included; then 504."""
    run_timeout_s: Seconds = Field(
        default=3600, validation_alias=AliasChoices("THREADKEEP_RUN_TIMEOUT", "BG_JOB_TIMEOUT_SECS")
    )
    """The time limit of a run, in seconds; then its status is `timeout`."""
    lease_s: Seconds = Field(default=30, ge=1, validation_alias="THREADKEEP_LEASE")
    """A process that has been silent for so long is dead to the others, in seconds."""
    sweep_s: Seconds = Field(default=10, validation_alias="THREADKEEP_SWEEP")
    """How often each process looks for runs of dead ones, in seconds."""
    max_attempts: int = Field(
        default=3, ge=1, validation_alias=AliasChoices("THREADKEEP_MAX_ATTEMPTS", "BG_JOB_MAX_RETRIES")
    )
    """How often a run is begun; one whose process died so often ends as `error`."""
    drain_s: Seconds = Field(default=20, validation_alias="THREADKEEP_DRAIN")
    """How long runs may go on after SIGTERM, in seconds."""

    api_connections: int = Field(default=6, ge=1, validation_alias="THREADKEEP_API_CONNECTIONS")
    """Connections for requests that read and write our tables."""
    run_connections: int = Field(default=8, ge=1, validation_alias="THREADKEEP_RUN_CONNECTIONS")
    """Connections for the checkpoints and the store of running graphs."""

    host: str = Field(default="127.0.0.1", validation_alias="HOST")
    port: int = Field(default=2024, ge=0, le=65535, validation_alias="PORT")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", validation_alias="LOG_LEVEL")
    log_json: bool | None = Field(default=None, validation_alias="LOG_JSON")
    """JSON lines; unset: JSON unless standard error is a terminal."""
    expose_errors: bool = Field(default=False, validation_alias="THREADKEEP_EXPOSE_ERRORS")
    """Tell clients the text of every exception of a graph, not only of Python's and LangGraph's ordinary ones."""
    body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, validation_alias="THREADKEEP_BODY_BYTES")
    """The largest request body."""

    model: str | None = Field(default=None, validation_alias="MODEL")
    """The built-in agent's model, `provider:name`; None: the offline model."""
    model_base_url: str | None = Field(default=None, validation_alias="MODEL_BASE_URL")
    """An OpenAI-compatible address for `model`."""

    @property
    def connections(self) -> int:
        """What this process takes of the server's `max_connections`: both pools, the listener and the heartbeat."""
        return self.api_connections + self.run_connections + 2

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_uri", "database_direct_uri")
    @classmethod
    def _plain_scheme(cls, value: str | None) -> str | None:
        """Drop a driver's name (`postgresql+psycopg://`), which libpq does not know."""
        if value is None or "://" not in value:
            return value
        scheme, rest = value.split("://", 1)
        return f"{scheme.split('+', 1)[0]}://{rest}"

    @model_validator(mode="after")
    def _libpq(self) -> Self:
        if self.database_uri is None and any(os.environ.get(name) for name in LIBPQ_NAMES):
            object.__setattr__(self, "database_uri", "")  # an empty conninfo: libpq reads its own variables
        return self


def environment_names() -> set[str]:
    """Every environment name that a setting has."""
    names: set[str] = set()
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        names.update(str(choice) for choice in alias.choices) if isinstance(alias, AliasChoices) else names.add(
            str(alias)
        )
    return names


def load(given: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this environment, `given` ones over it; StartRefused where one is unknown or has no sense."""
    _refuse_unknown(name for name in os.environ if name.startswith("THREADKEEP_"))
    try:
        return Settings(**(given or {}))
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise StartRefused("settings: " + "; ".join(lines)) from None


def environment(prefix: str) -> dict[str, str]:
    """The variables of this environment whose names begin with `prefix`, for what a project may quote."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def _refuse_unknown(names: Iterable[str]) -> None:
    known = environment_names()
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise StartRefused(f"unknown setting {name}; did you mean {nearest[0]}?")
