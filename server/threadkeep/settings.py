"""Settings: the only reader of the environment.

Read once, frozen, handed down as a parameter. An unknown `THREADKEEP_` name stops the start: a setting that is
misspelt is a setting that is not in force. The `env` of langgraph.json belongs to the project: of it, only the names
that begin with `THREADKEEP_` and those of LangGraph's platform are settings.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import platformdirs
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from threadkeep.base import libpq
from threadkeep.base.problems import StartupError

PREFIX: Final = "THREADKEEP_"
AES_KEY_BYTES: Final = frozenset({16, 24, 32})
PLATFORM: Final = frozenset(
    {
        "BG_JOB_MAX_RETRIES",
        "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS",
        "BG_JOB_TIMEOUT_SECS",
        "CORS_ALLOW_ORIGINS",
        "DATABASE_URI",
        "HTTP_MAX_REQUEST_BODY_BYTES",
        "LANGGRAPH_AES_KEY",
        "LANGGRAPH_POSTGRES_POOL_MAX_SIZE",
        "MOUNT_PREFIX",
        "N_JOBS_PER_WORKER",
        "POSTGRES_URI",
    }
)
"""Names of LangGraph's platform that are settings here, and that a project's `env` may set too."""

WITHOUT_EFFECT: Final = frozenset(
    {
        "ALLOW_PRIVATE_NETWORK",
        "BG_JOB_ISOLATED_LOOPS",
        "CORS_CONFIG",
        "CRON_SCHEDULER_BATCH_SIZE",
        "CRON_SCHEDULER_SLEEP_TIME",
        "DISPATCH_MODE",
        "FF_ASYNC_PUBLISH_QUEUE",
        "FF_CRONS_ENABLED",
        "FF_LOG_QUERY_AND_PARAMS",
        "FF_PYSPY_PROFILING_ENABLED",
        "FF_USE_REDIS_QUEUE",
        "FF_V2_EVENT_STREAMING",
        "LANGGRAPH_AES_JSON_KEYS",
        "LANGGRAPH_ALLOW_BLOCKING",
        "LANGGRAPH_AUTH_TYPE",
        "LANGGRAPH_CHECKPOINTER_POSTGRES_POOL_MAX_SIZE",
        "LANGGRAPH_CHECKPOINTER_POSTGRES_POOL_MIN_SIZE",
        "LANGGRAPH_CHECKPOINTER_POSTGRES_POOL_TIMEOUT_SECONDS",
        "LANGGRAPH_CLOUD_LICENSE_KEY",
        "LANGGRAPH_METRICS_ENABLED",
        "LANGGRAPH_METRICS_ENDPOINT",
        "LANGGRAPH_POSTGRES_EXTENSIONS",
        "LANGGRAPH_THREAD_TTL",
        "LANGGRAPH_UI",
        "LANGSMITH_CONTROL_PLANE_API_KEY",
        "LOG_COLOR",
        "LSD_PROTOCOL_V2_BUFFER_SIZE",
        "LSD_PUBLISH_QUEUE_SIZE",
        "MAX_STREAM_CHUNK_SIZE_BYTES",
        "METRIC_PREFIX",
        "OTEL_ENABLED",
        "REDIS_CLUSTER",
        "REDIS_KEY_PREFIX",
        "REDIS_MAX_CONNECTIONS",
        "REDIS_URI",
        "REDIS_URI_CUSTOM",
        "RESUMABLE_STREAM_TTL_SECONDS",
        "STATS_INTERVAL_SECS",
    }
)
"""Names of the platform that ask for nothing that there is here. They are told in one line of the log."""

LEVELS: Final[Mapping[str, str]] = {
    "trace": "debug",
    "notset": "debug",
    "warn": "warning",
    "critical": "error",
    "fatal": "error",
}
"""Other programs' names of log levels."""

BUILTIN_PROJECT: Final = "threadkeep"
"""The project of the built-in agent."""
AuthType: TypeAlias = Literal["none", "api_key", "jwt", "custom"]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """What the operator set; every field's environment names are its aliases."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="ignore", populate_by_name=True)

    database_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices("THREADKEEP_DATABASE_URI", "DATABASE_URI", "POSTGRES_URI", "DATABASE_URL"),
    )
    """Postgres to use. None: the embedded one, in `data_dir`."""
    database_direct_uri: str | None = Field(
        default=None, validation_alias=AliasChoices("THREADKEEP_DATABASE_DIRECT_URI", "DATABASE_DIRECT_URI")
    )
    """The same database past a transaction pooler, for LISTEN; where set, `database_uri` gets no prepared statements."""
    data_dir: Path | None = Field(default=None, validation_alias="THREADKEEP_DATA_DIR")
    """Where the embedded Postgres keeps its data. None: a folder for each project, in the user's data folder."""
    project: str | None = Field(default=None, max_length=200, validation_alias="THREADKEEP_PROJECT")
    """Whose rows this process reads and writes, where several projects share a database. None: by the project's name."""

    run_slots: int = Field(
        default=12, ge=1, le=1000, validation_alias=AliasChoices("THREADKEEP_RUN_SLOTS", "N_JOBS_PER_WORKER")
    )
    """Graphs that run at once in this process."""
    slot_reserve: int | None = Field(default=None, ge=0, validation_alias="THREADKEEP_SLOT_RESERVE")
    """Slots that one principal leaves free for others while there are others. None: a quarter."""
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
    stop_grace_s: Seconds = Field(default=5, validation_alias="THREADKEEP_STOP_GRACE")
    """How long a graph may take to stop when it is told to, in seconds; then its run is closed without it."""
    lease_s: Seconds = Field(default=30, ge=1, validation_alias="THREADKEEP_LEASE")
    """A process that has been silent for so long is dead to the others, in seconds."""
    reaper_interval_s: Seconds = Field(default=10, validation_alias="THREADKEEP_SWEEP")
    """How often each process looks for runs of dead ones, in seconds."""
    max_attempts: int = Field(
        default=3, ge=1, validation_alias=AliasChoices("THREADKEEP_MAX_ATTEMPTS", "BG_JOB_MAX_RETRIES")
    )
    """How often a run is begun; one whose process died so often ends as `error`."""
    drain_s: Seconds = Field(
        default=20, validation_alias=AliasChoices("THREADKEEP_DRAIN", "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS")
    )
    """How long runs may go on after SIGTERM, in seconds."""
    shutdown_delay_s: float = Field(default=2, ge=0, validation_alias="THREADKEEP_LINGER")
    """How long requests are still taken after SIGTERM, in seconds: load balancers look first."""
    idempotency_ttl_s: Seconds = Field(default=86_400, validation_alias="THREADKEEP_IDEMPOTENCY")
    """How long an Idempotency-Key stands for what it made, in seconds."""
    keep_events_s: float = Field(default=86_400, ge=0, validation_alias="THREADKEEP_KEEP_EVENTS")
    """How long the events of a finished run are kept, in seconds. 0: as long as the run."""
    keep_stateless_s: float = Field(default=8, ge=0, validation_alias="THREADKEEP_KEEP_STATELESS")
    """How long the thread of a finished stateless run is kept, in seconds, so that its answer can be had once more."""
    response_ttl_s: float = Field(default=30 * 86_400, ge=0, validation_alias="THREADKEEP_RESPONSE_TTL")
    """How long a thread that only responses of the OpenAI API made is kept after the last one, in seconds. 0: for ever."""
    keep_webhooks_s: float = Field(default=86_400, ge=0, validation_alias="THREADKEEP_KEEP_WEBHOOKS")
    """How long a webhook that could not be sent is kept, in seconds. 0: until it is sent or refused."""
    max_unsent_events: int = Field(default=256, ge=1, validation_alias="THREADKEEP_UNSENT_EVENTS")
    """How many events of a run a stream may be behind while its client does not read; then it is cut."""
    max_unsent_bytes: int = Field(default=1024 * 1024, ge=1, validation_alias="THREADKEEP_UNSENT_BYTES")
    """Likewise, in bytes."""
    write_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_WRITE_TIMEOUT")
    """How long a client may read nothing of what is sent to it, in seconds; then its connection is cut."""

    api_connections: int = Field(default=6, ge=1, validation_alias="THREADKEEP_API_CONNECTIONS")
    """Connections for requests that read and write our tables."""
    run_connections: int = Field(default=8, ge=1, validation_alias="THREADKEEP_RUN_CONNECTIONS")
    """Connections for the checkpoints and the store of running graphs."""
    pool_max_size: int | None = Field(default=None, ge=2, validation_alias="LANGGRAPH_POSTGRES_POOL_MAX_SIZE")
    """The most connections of both pools together. Both are made smaller where they would have more."""
    strict_persistence: bool = Field(default=False, validation_alias="THREADKEEP_STRICT_PERSISTENCE")
    """Stop the start where langgraph.json names a store or a checkpointer of its own."""

    host: str = Field(default="127.0.0.1", validation_alias=AliasChoices("THREADKEEP_HOST", "HOST"))
    port: int = Field(default=2024, ge=0, le=65535, validation_alias=AliasChoices("THREADKEEP_PORT", "PORT"))
    mount_prefix: str | None = Field(default=None, validation_alias="MOUNT_PREFIX")
    """Goes over `http.mount_prefix` of langgraph.json."""
    cors_allow_origins: str | None = Field(default=None, validation_alias="CORS_ALLOW_ORIGINS")
    """Origins that a browser may call from, with commas between, where langgraph.json names none."""
    hosts: str | None = Field(default=None, validation_alias="THREADKEEP_HOSTS")
    """Further names that a request's `Host` may have while authentication is off, with commas between."""
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias=AliasChoices("THREADKEEP_LOG_LEVEL", "LOG_LEVEL")
    )
    log_json: bool | None = Field(default=None, validation_alias=AliasChoices("THREADKEEP_LOG_JSON", "LOG_JSON"))
    """JSON lines; unset: JSON unless standard error is a terminal."""
    metrics: Literal["off", "public", "auth"] | None = Field(default=None, validation_alias="THREADKEEP_METRICS")
    """Who gets `/metrics`. None: everybody while `host` is this machine's own, else as with `auth`."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535, validation_alias="THREADKEEP_METRICS_PORT")
    """A port for `/metrics` alone, which is then not on the other one; whoever reaches it is not asked who they are."""
    expose_errors: bool = Field(default=False, validation_alias="THREADKEEP_EXPOSE_ERRORS")
    """Tell clients the text of every exception of a graph, not only of Python's and LangGraph's ordinary ones."""
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        validation_alias=AliasChoices("THREADKEEP_BODY_BYTES", "HTTP_MAX_REQUEST_BODY_BYTES"),
    )
    """The largest request body."""
    max_queued: int = Field(default=10_000, ge=0, validation_alias="THREADKEEP_MAX_QUEUED")
    """Runs that wait in the queue, in the whole fleet; one more is answered 503. 0: any number."""
    max_requests_per_principal: int = Field(default=6000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_REQUESTS")
    """Requests of one principal within a minute, in each process; one more is answered 429. 0: any number."""
    max_streams_per_principal: int = Field(default=200, ge=0, validation_alias="THREADKEEP_PRINCIPAL_STREAMS")
    """Streams and waits that one principal has open, in each process. 0: any number."""
    max_runs_per_principal: int = Field(default=100, ge=0, validation_alias="THREADKEEP_PRINCIPAL_RUNS")
    """Runs of one principal that go on or wait for a slot, in each process. 0: any number."""
    max_queued_per_principal: int = Field(default=1000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_WAITING")
    """Runs of one principal that wait in the queue. 0: any number."""
    max_new_threads_per_principal: int = Field(default=3000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_THREADS")
    """Threads that one principal creates within a minute, in each process, without those of stateless runs. 0: any number."""
    max_crons_per_principal: int = Field(default=100, ge=0, validation_alias="THREADKEEP_PRINCIPAL_CRONS")
    """Crons of one principal. 0: any number."""
    max_assistants_per_principal: int = Field(default=1000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_ASSISTANTS")
    """Assistants of one principal. 0: any number."""
    max_store_items_per_principal: int = Field(default=100_000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_ITEMS")
    """Items of the store that one principal put first. 0: any number."""
    max_channel_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1024 * 1024, validation_alias="THREADKEEP_CHANNEL_BYTES"
    )
    """The largest value of one channel of a graph's state; a run that leaves a larger one ends as `error`."""
    answer_bytes: int = Field(default=16 * 1024 * 1024, ge=64 * 1024, validation_alias="THREADKEEP_ANSWER_BYTES")
    """The largest answer of a state, a history, a search or the store. Lists end before it and say where they go on."""
    metadata_bytes: int = Field(default=64 * 1024, ge=1024, validation_alias="THREADKEEP_METADATA_BYTES")
    """The largest `metadata`, `config` or `context` of a thread, a run, an assistant or a cron."""
    max_recursion: int = Field(default=10_007, ge=1, validation_alias="THREADKEEP_MAX_RECURSION")
    """The highest `config.recursion_limit`. The default is LangGraph's own limit for a graph that nobody limits."""
    aes_key: SecretStr | None = Field(default=None, validation_alias="LANGGRAPH_AES_KEY")
    """Encrypts checkpoints at rest: 16, 24 or 32 bytes. None: they are not."""
    head_bytes: int = Field(default=64 * 1024, ge=1024, validation_alias="THREADKEEP_HEAD_BYTES")
    """The largest head of a request: its first line and its headers. Above it 431."""
    head_lines: int = Field(default=100, ge=10, validation_alias="THREADKEEP_HEAD_LINES")
    """The most headers of a request. Above it 431."""
    head_timeout_s: Seconds = Field(default=10, validation_alias="THREADKEEP_HEAD_TIMEOUT")
    """How long a head may take to come after its first byte, in seconds; then 408."""
    body_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_BODY_TIMEOUT")
    """How long a request body may take to come, in seconds; then 408."""
    search_timeout_s: Seconds = Field(default=5, le=30, validation_alias="THREADKEEP_SEARCH_TIMEOUT")
    """How long Postgres may take over each statement of a search or a count, in seconds; then 503."""

    auth_type: AuthType | None = Field(default=None, validation_alias=AliasChoices("THREADKEEP_AUTH_TYPE", "AUTH_TYPE"))
    """How callers are known. None: by the project's `auth` where it has one, else not at all."""
    allow_unauthenticated: bool = Field(
        default=False, validation_alias=AliasChoices("THREADKEEP_ALLOW_UNAUTHENTICATED", "ALLOW_UNAUTHENTICATED")
    )
    """Serve others than this machine though nobody is asked who they are."""
    auth_recheck_s: float = Field(default=5, ge=0, le=3600, validation_alias="THREADKEEP_AUTH_RECHECK")
    """How often the `authenticate` of a project's own `Auth` is asked again for an open stream or socket, in seconds.

    0: never, as an `Auth` with tokens that are good for one request needs it. API keys and JWTs are asked every second.
    """
    jwt_issuer: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_ISSUER")
    """`iss` of every token."""
    jwt_audience: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_AUDIENCE")
    """`aud` of every token, or several with commas between."""
    jwt_jwks_url: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_JWKS_URL")
    """Where the issuer's keys are."""
    jwt_public_key: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_PUBLIC_KEY")
    """The issuer's key, PEM, in place of an address."""
    jwt_secret: SecretStr | None = Field(default=None, validation_alias="THREADKEEP_JWT_SECRET")
    """What the issuer and this server share, in place of a public key."""
    jwt_algorithms: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_ALGORITHMS")
    """Those that a token may be signed with, with commas between. None: RS256 and ES256; with a secret HS256."""
    jwt_leeway_s: float = Field(default=30, ge=0, le=300, validation_alias="THREADKEEP_JWT_LEEWAY")
    """How much an issuer's clock may differ, in seconds."""
    jwt_scopes: Literal["optional", "required", "ignored"] = Field(
        default="optional", validation_alias="THREADKEEP_JWT_SCOPES"
    )
    """Whether a token without scopes may do everything (`optional`) or nothing, or scopes are for other servers."""

    model: str | None = Field(default=None, validation_alias=AliasChoices("THREADKEEP_MODEL", "MODEL"))
    """The built-in agent's model, `provider:name`; None: the offline model."""
    model_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("THREADKEEP_MODEL_BASE_URL", "MODEL_BASE_URL")
    )
    """An OpenAI-compatible address for `model`."""
    offline_pause_s: float = Field(default=0.02, ge=0, le=10, validation_alias="THREADKEEP_OFFLINE_PAUSE")
    """The pause of the offline model before each word that it streams, in seconds."""

    @property
    def project_id(self) -> str:
        """`project`, once it is known."""
        return self.project or BUILTIN_PROJECT

    @property
    def data_path(self) -> Path:
        """`data_dir`, once the project is known."""
        return self.data_dir or user_data_path() / "projects" / _folder_name(self.project_id)

    @field_validator("project")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        if value is not None and not (value.strip() and value.isprintable()):
            raise ValueError("must be a name of printable characters")
        return value

    @property
    def max_connections(self) -> int:
        """What this process takes of the server's `max_connections`: both pools, the listener and the heartbeat."""
        return self.api_connections + self.run_connections + 2

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names of `hosts`."""
        return tuple(name.strip(" []").lower() for name in (self.hosts or "").split(",") if name.strip())

    @field_validator("hosts")
    @classmethod
    def _names_without_ports(cls, value: str | None) -> str | None:
        for name in (value or "").split(","):
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+|\[?[0-9A-Fa-f:.]+\]?|", name.strip()):
                raise ValueError(f"{name.strip()!r} is no host name: give names without scheme and port")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        return log_level(value) if isinstance(value, str) else value

    @field_validator("aes_key")
    @classmethod
    def _key_length(cls, value: SecretStr | None) -> SecretStr | None:
        if any(len(key) not in AES_KEY_BYTES for key in _aes_keys(value)):
            raise ValueError("LANGGRAPH_AES_KEY: each key must be 16, 24 or 32 bytes long; several have commas between")
        return value

    @property
    def aes_keys(self) -> tuple[bytes, ...]:
        """The keys of checkpoints. The first one encrypts, all of them decrypt."""
        return _aes_keys(self.aes_key)

    @field_validator("database_uri", "database_direct_uri")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return libpq.plain(value) if value else value

    @model_validator(mode="after")
    def _pools(self) -> Self:
        together = self.api_connections + self.run_connections
        if self.pool_max_size is not None and self.pool_max_size < together:
            api = max(1, self.pool_max_size * self.api_connections // together)
            object.__setattr__(self, "api_connections", api)
            object.__setattr__(self, "run_connections", self.pool_max_size - api)
        return self


def user_data_path() -> Path:
    """The user's data folder (on Linux `~/.local/share/threadkeep`)."""
    return platformdirs.user_data_path("threadkeep")


def _folder_name(project_id: str) -> str:
    """A name for a folder, another one for each project."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", project_id).strip("-")[:60]
    if plain == project_id == project_id.lower():  # some file systems do not tell A from a
        return plain
    return f"{plain or 'project'}-{hashlib.sha256(project_id.encode()).hexdigest()[:8]}"


def log_level(text: str) -> str:
    """A log level by whichever name other programs have for it."""
    return LEVELS.get(text.strip().lower(), text.strip().lower())


def names_of(field: FieldInfo) -> tuple[str, ...]:
    """The environment names of a setting; the first that is set counts."""
    alias = field.validation_alias
    return tuple(str(one) for one in alias.choices) if isinstance(alias, AliasChoices) else (str(alias),)


def environment_names() -> set[str]:
    """Every environment name that a setting has."""
    return {name for field in Settings.model_fields.values() for name in names_of(field)}


NOTHING: Mapping[str, str] = MappingProxyType({})


def _aes_keys(value: SecretStr | None) -> tuple[bytes, ...]:
    """The keys between commas. A text that has the length of one key is one key, although it may contain commas."""
    if value is None:
        return ()
    whole = value.get_secret_value().encode()
    return (whole,) if len(whole) in AES_KEY_BYTES else tuple(whole.split(b","))


def load_settings(given: Mapping[str, Any] | None = None, project: Mapping[str, str] = NOTHING) -> Settings:
    """The settings of this environment, `given` ones over it; StartupError where one is unknown or has no sense.

    `project` are the variables of the project's `env`, before they are set. A variable of the process goes over them.
    """
    _refuse_unknown(name for name in (*os.environ, *project) if name.startswith(PREFIX))
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for setting, field in Settings.model_fields.items():
        if found := _found(names_of(field), project):
            names[setting], values[setting] = found
    if "database_uri" not in values and any(os.environ.get(name) for name in libpq.DATABASE_NAMES):
        values["database_uri"] = ""  # an empty conninfo: libpq reads its own variables
    try:
        chosen = Settings(**{**values, **(given or {})})
    except ValidationError as error:
        raise StartupError("settings: " + "; ".join(_lines(error, names))) from None
    return _pinned(chosen, libpq.foreign_names(project, os.environ))


def _found(names: tuple[str, ...], project: Mapping[str, str]) -> tuple[str, str] | None:
    """The name that is set, and its value; an empty one is none."""
    for name in names:
        if value := os.environ.get(name):
            return name, value
    for name in names:
        if (value := project.get(name)) and _is_setting(name, value):
            return name, value
    return None


def _is_setting(name: str, value: str) -> bool:
    """Whether a variable of a project's `env` is the server's."""
    if name in {"DATABASE_URI", "POSTGRES_URI"} and not libpq.is_postgres(value):
        return False  # the app's own database
    return name.startswith(PREFIX) or name in PLATFORM


def _lines(error: ValidationError, names: Mapping[str, str]) -> Iterable[str]:
    for item in error.errors():
        setting = ".".join(str(part) for part in item["loc"])
        said = item["msg"].removeprefix("Value error, ")
        hint = ""
        if names.get(setting) == "DATABASE_URL":
            hint = "; if it is another program's, set DATABASE_URI, which goes over it"
        yield f"{names.get(setting, setting)}: {said}{hint}"


def _pinned(chosen: Settings, foreign: frozenset[str]) -> Settings:
    uris = {"database_uri": chosen.database_uri, "database_direct_uri": chosen.database_direct_uri}
    said = {name: libpq.pinned(uri, foreign) for name, uri in uris.items() if uri is not None}
    return chosen.model_copy(update=said)


def origins(project: Mapping[str, str] = NOTHING) -> dict[str, list[str]]:
    """The names that settings were read from, by where they stand, and those of the project that are not settings."""
    read = {
        found[0]: "from_process" if os.environ.get(found[0]) else "from_project"
        for field in Settings.model_fields.values()
        if (found := _found(names_of(field), project))
    }
    generic = (environment_names() | set(libpq.DATABASE_NAMES)) & {*project} - {*os.environ}
    told = {place: sorted(name for name in read if read[name] == place) for place in ("from_process", "from_project")}
    told["left_to_the_project"] = sorted(name for name in generic if not _is_setting(name, project[name]))
    return {place: names for place, names in told.items() if names}


def without_effect(project: Mapping[str, str] = NOTHING) -> list[str]:
    """The platform's names that are set here and ask for what there is not."""
    said = {**project, **os.environ}
    return sorted(name for name in WITHOUT_EFFECT if said.get(name, "").lower() not in {"", "0", "false"})


def environment(prefix: str) -> dict[str, str]:
    """The variables of this environment whose names begin with `prefix`, for what a project may quote."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def early_log_level() -> str:
    """The process's log level, for what is logged before the settings are known; `info` where it is none."""
    found = _found(names_of(Settings.model_fields["log_level"]), NOTHING)
    level = log_level(found[1]) if found else "info"
    return level if level in {"debug", "info", "warning", "error"} else "info"


def _refuse_unknown(names: Iterable[str]) -> None:
    known = environment_names()
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise StartupError(f"unknown setting {name}; did you mean {nearest[0]}?")
