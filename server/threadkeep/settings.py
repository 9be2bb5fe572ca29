"""Settings: the only module that reads the environment.

They are read once, frozen, and passed as a parameter. An unknown `THREADKEEP_` name stops the start, because a misspelt
setting would have no effect. The `env` of langgraph.json belongs to the project. Only its names that begin with
`THREADKEEP_` and those of LangGraph's platform are settings.
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
STATE_KEY_BYTES: Final = 32
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
"""Names of LangGraph's platform that are settings, and that a project's `env` may also set."""

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
"""Names of the platform that have no effect on this server. One log line lists those that are set."""

LEVELS: Final[Mapping[str, str]] = {
    "trace": "debug",
    "notset": "debug",
    "warn": "warning",
    "critical": "error",
    "fatal": "error",
}
"""Log level of other programs -> log level of this server."""

BUILTIN_PROJECT: Final = "threadkeep"
"""The project of the built-in agent."""
AuthType: TypeAlias = Literal["none", "api_key", "jwt", "custom"]
Role: TypeAlias = Literal["all", "api", "worker"]
"""Whether a process serves the API, runs graphs, or does both."""
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """The operator's settings. The aliases of a field are its environment names."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="ignore", populate_by_name=True)

    database_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices("THREADKEEP_DATABASE_URI", "DATABASE_URI", "POSTGRES_URI", "DATABASE_URL"),
    )
    """The URI of Postgres. None: the embedded Postgres in `data_dir`."""
    database_direct_uri: str | None = Field(
        default=None, validation_alias=AliasChoices("THREADKEEP_DATABASE_DIRECT_URI", "DATABASE_DIRECT_URI")
    )
    """The same database without a transaction pooler, for LISTEN. If it is set, `database_uri` gets no prepared statements."""
    data_dir: Path | None = Field(default=None, validation_alias="THREADKEEP_DATA_DIR")
    """The folder of the embedded Postgres. None: a folder for each project, in the user's data folder."""
    project: str | None = Field(default=None, max_length=200, validation_alias="THREADKEEP_PROJECT")
    """The project id of the rows that this process reads and writes, if projects share a database. None: the project's name."""

    role: Role = Field(default="all", validation_alias="THREADKEEP_ROLE")
    """`api`: serve the API and run no graph. `worker`: run graphs and serve only health checks and metrics. `all`: both."""
    workers: int = Field(default=1, ge=1, le=256, validation_alias="THREADKEEP_WORKERS")
    """Number of processes that serve on the port, with this role."""
    run_slots: int = Field(
        default=12, ge=1, le=1000, validation_alias=AliasChoices("THREADKEEP_RUN_SLOTS", "N_JOBS_PER_WORKER")
    )
    """Largest number of graphs that run at once in this process."""
    slot_reserve: int | None = Field(default=None, ge=0, validation_alias="THREADKEEP_SLOT_RESERVE")
    """Slots that one principal leaves free while there are other principals. None: a quarter."""
    max_waiting: int = Field(default=1000, ge=0, validation_alias="THREADKEEP_MAX_WAITING")
    """Largest number of requests that wait for a slot. Further requests get 503."""
    queue_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_QUEUE_TIMEOUT")
    """The longest wait for a slot, in seconds. After that the response is 503."""
    query_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_QUERY_TIMEOUT")
    """The time limit of `/query` including waits, in seconds. After that the response is 504."""
    run_timeout_s: Seconds = Field(
        default=3600, validation_alias=AliasChoices("THREADKEEP_RUN_TIMEOUT", "BG_JOB_TIMEOUT_SECS")
    )
    """The time limit of a run, in seconds. After that its status is `timeout`."""
    stop_grace_s: Seconds = Field(default=5, validation_alias="THREADKEEP_STOP_GRACE")
    """Seconds that a cancelled graph may take to stop. After that its run is ended without it."""
    lease_s: Seconds = Field(default=30, ge=1, validation_alias="THREADKEEP_LEASE")
    """Seconds without a heartbeat after which other processes take over a process's runs."""
    reaper_interval_s: Seconds = Field(default=10, validation_alias="THREADKEEP_SWEEP")
    """Seconds between two searches of each process for runs of dead processes."""
    max_attempts: int = Field(
        default=3, ge=1, validation_alias=AliasChoices("THREADKEEP_MAX_ATTEMPTS", "BG_JOB_MAX_RETRIES")
    )
    """Largest number of attempts of a run. If the process of the last attempt dies, the run ends as `error`."""
    drain_s: Seconds = Field(
        default=20, validation_alias=AliasChoices("THREADKEEP_DRAIN", "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS")
    )
    """Seconds that runs may continue after SIGTERM."""
    shutdown_delay_s: float = Field(default=2, ge=0, validation_alias="THREADKEEP_LINGER")
    """Seconds after SIGTERM in which requests are still accepted, so that load balancers notice the stop first."""
    idempotency_ttl_s: Seconds = Field(default=86_400, validation_alias="THREADKEEP_IDEMPOTENCY")
    """Seconds for which an Idempotency-Key and its result are stored."""
    keep_events_s: float = Field(default=86_400, ge=0, validation_alias="THREADKEEP_KEEP_EVENTS")
    """Seconds for which the events of a finished run are stored. 0: as long as the run."""
    keep_stateless_s: float = Field(default=8, ge=0, validation_alias="THREADKEEP_KEEP_STATELESS")
    """Seconds for which the thread of a finished stateless run is stored, so that its result can be read again."""
    response_ttl_s: float = Field(default=30 * 86_400, ge=0, validation_alias="THREADKEEP_RESPONSE_TTL")
    """Seconds after the last response for which a thread that only responses of the OpenAI API created is stored. 0: forever."""
    keep_webhooks_s: float = Field(default=86_400, ge=0, validation_alias="THREADKEEP_KEEP_WEBHOOKS")
    """Seconds for which a webhook that could not be sent is stored. 0: until it is sent or refused."""
    max_unsent_events: int = Field(default=256, ge=1, validation_alias="THREADKEEP_UNSENT_EVENTS")
    """Largest number of unsent events of a stream whose client does not read. Beyond it, the stream is closed."""
    max_unsent_bytes: int = Field(default=1024 * 1024, ge=1, validation_alias="THREADKEEP_UNSENT_BYTES")
    """The same limit in bytes."""
    write_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_WRITE_TIMEOUT")
    """Seconds for which a client may read nothing. After that its connection is closed."""

    api_connections: int = Field(default=6, ge=1, validation_alias="THREADKEEP_API_CONNECTIONS")
    """Connections to Postgres for requests of the API."""
    run_connections: int = Field(default=8, ge=1, validation_alias="THREADKEEP_RUN_CONNECTIONS")
    """Connections to Postgres for checkpoints and the store of running graphs."""
    pool_max_size: int | None = Field(default=None, ge=2, validation_alias="LANGGRAPH_POSTGRES_POOL_MAX_SIZE")
    """Largest number of connections of both pools together. If they would have more, both are made smaller."""
    strict_persistence: bool = Field(default=False, validation_alias="THREADKEEP_STRICT_PERSISTENCE")
    """Refuse the start if langgraph.json names its own store or checkpointer."""

    host: str = Field(default="127.0.0.1", validation_alias=AliasChoices("THREADKEEP_HOST", "HOST"))
    port: int = Field(default=2024, ge=0, le=65535, validation_alias=AliasChoices("THREADKEEP_PORT", "PORT"))
    mount_prefix: str | None = Field(default=None, validation_alias="MOUNT_PREFIX")
    """Overrides `http.mount_prefix` of langgraph.json."""
    cors_allow_origins: str | None = Field(default=None, validation_alias="CORS_ALLOW_ORIGINS")
    """Origins of pages that may call, separated by commas. It is used if langgraph.json names no origins."""
    hosts: str | None = Field(default=None, validation_alias="THREADKEEP_HOSTS")
    """Further allowed values of the `Host` header while authentication is off, separated by commas."""
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias=AliasChoices("THREADKEEP_LOG_LEVEL", "LOG_LEVEL")
    )
    log_json: bool | None = Field(default=None, validation_alias=AliasChoices("THREADKEEP_LOG_JSON", "LOG_JSON"))
    """Log JSON lines. None: JSON unless standard error is a terminal."""
    metrics: Literal["off", "public", "auth"] | None = Field(default=None, validation_alias="THREADKEEP_METRICS")
    """The access to `/metrics`. None: `public` if `host` is a loopback address, else `auth`."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535, validation_alias="THREADKEEP_METRICS_PORT")
    """A separate port for `/metrics`, without authentication. The server's own port then does not serve it."""
    expose_errors: bool = Field(default=False, validation_alias="THREADKEEP_EXPOSE_ERRORS")
    """Send clients the text of every exception of a graph, not only of common types of Python and LangGraph."""
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        validation_alias=AliasChoices("THREADKEEP_BODY_BYTES", "HTTP_MAX_REQUEST_BODY_BYTES"),
    )
    """The largest request body, in bytes."""
    max_queued: int = Field(default=10_000, ge=0, validation_alias="THREADKEEP_MAX_QUEUED")
    """Largest number of pending runs in the queue of all processes. Further runs get 503. 0: no limit."""
    max_requests_per_principal: int = Field(default=6000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_REQUESTS")
    """Requests of one principal in a minute, in each process. Further requests get 429. 0: no limit."""
    max_streams_per_principal: int = Field(default=200, ge=0, validation_alias="THREADKEEP_PRINCIPAL_STREAMS")
    """Open streams and waits of one principal, in each process. 0: no limit."""
    max_runs_per_principal: int = Field(default=100, ge=0, validation_alias="THREADKEEP_PRINCIPAL_RUNS")
    """Runs of one principal that are running or wait for a slot, in each process. 0: no limit."""
    max_queued_per_principal: int = Field(default=1000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_WAITING")
    """Pending runs of one principal in the queue. 0: no limit."""
    max_new_threads_per_principal: int = Field(default=3000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_THREADS")
    """Threads that one principal creates in a minute, in each process, except those of stateless runs. 0: no limit."""
    max_crons_per_principal: int = Field(default=100, ge=0, validation_alias="THREADKEEP_PRINCIPAL_CRONS")
    """Crons of one principal. 0: no limit."""
    max_assistants_per_principal: int = Field(default=1000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_ASSISTANTS")
    """Assistants of one principal. 0: no limit."""
    max_store_items_per_principal: int = Field(default=100_000, ge=0, validation_alias="THREADKEEP_PRINCIPAL_ITEMS")
    """Items of the store that one principal created. 0: no limit."""
    max_channel_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1024 * 1024, validation_alias="THREADKEEP_CHANNEL_BYTES"
    )
    """The largest value of one channel of a graph's state, in bytes. A run with a larger one ends as `error`."""
    answer_bytes: int = Field(default=16 * 1024 * 1024, ge=64 * 1024, validation_alias="THREADKEEP_ANSWER_BYTES")
    """The largest response with a state, a history, a search or store items, in bytes. Lists end earlier and can be continued."""
    metadata_bytes: int = Field(default=64 * 1024, ge=1024, validation_alias="THREADKEEP_METADATA_BYTES")
    """The largest `metadata`, `config` or `context` of a thread, run, assistant or cron, in bytes."""
    max_recursion: int = Field(default=10_007, ge=1, validation_alias="THREADKEEP_MAX_RECURSION")
    """The highest `config.recursion_limit`. The default is LangGraph's own limit for a graph without one."""
    aes_key: SecretStr | None = Field(default=None, validation_alias="LANGGRAPH_AES_KEY")
    """The key that encrypts checkpoints at rest: 16, 24 or 32 bytes. None: no encryption."""
    public_url: str | None = Field(
        default=None, pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$", validation_alias="THREADKEEP_PUBLIC_URL"
    )
    """The URL at which clients reach the server. Agent cards name it. None: the host of the request."""
    head_bytes: int = Field(default=64 * 1024, ge=1024, validation_alias="THREADKEEP_HEAD_BYTES")
    """The largest head of a request (first line and headers), in bytes. A larger one gets 431."""
    head_lines: int = Field(default=100, ge=10, validation_alias="THREADKEEP_HEAD_LINES")
    """Largest number of headers of a request. More get 431."""
    head_timeout_s: Seconds = Field(default=10, validation_alias="THREADKEEP_HEAD_TIMEOUT")
    """Seconds that a head may take to arrive after its first byte. After that the response is 408."""
    body_timeout_s: Seconds = Field(default=30, validation_alias="THREADKEEP_BODY_TIMEOUT")
    """Seconds that a request body may take to arrive. After that the response is 408."""
    search_timeout_s: Seconds = Field(default=5, le=30, validation_alias="THREADKEEP_SEARCH_TIMEOUT")
    """Seconds that Postgres may take for each statement of a search or a count. After that the response is 503."""

    auth_type: AuthType | None = Field(default=None, validation_alias=AliasChoices("THREADKEEP_AUTH_TYPE", "AUTH_TYPE"))
    """The method of authentication. None: the project's `auth` if it has one, else no authentication."""
    allow_unauthenticated: bool = Field(
        default=False, validation_alias=AliasChoices("THREADKEEP_ALLOW_UNAUTHENTICATED", "ALLOW_UNAUTHENTICATED")
    )
    """Allow a `host` that other machines can reach although authentication is off."""
    auth_recheck_s: float = Field(default=5, ge=0, le=3600, validation_alias="THREADKEEP_AUTH_RECHECK")
    """Seconds between two calls of the project's own `authenticate` for an open stream or socket.

    0: never, for an `Auth` whose tokens are valid for one request only. API keys and JWTs are checked every second.
    """
    jwt_issuer: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_ISSUER")
    """The required `iss` of a token."""
    jwt_audience: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_AUDIENCE")
    """The required `aud` of a token, or several separated by commas."""
    jwt_jwks_url: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_JWKS_URL")
    """The URL of the issuer's public keys."""
    jwt_public_key: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_PUBLIC_KEY")
    """The issuer's public key in PEM, instead of a URL."""
    jwt_secret: SecretStr | None = Field(default=None, validation_alias="THREADKEEP_JWT_SECRET")
    """The secret that the issuer and this server share, instead of a public key."""
    jwt_algorithms: str | None = Field(default=None, validation_alias="THREADKEEP_JWT_ALGORITHMS")
    """Allowed algorithms of tokens, separated by commas. None: RS256 and ES256, or HS256 with a secret."""
    jwt_leeway_s: float = Field(default=30, ge=0, le=300, validation_alias="THREADKEEP_JWT_LEEWAY")
    """Seconds by which the issuer's clock may differ."""
    jwt_scopes: Literal["optional", "required", "ignored"] = Field(
        default="optional", validation_alias="THREADKEEP_JWT_SCOPES"
    )
    """`optional`: a token without scopes may do everything. `required`: it may do nothing. `ignored`: scopes have no effect."""

    mcp_task_after_s: float = Field(default=0.5, ge=0, le=60, validation_alias="THREADKEEP_MCP_TASK_AFTER")
    """Seconds after which a call of an MCP tool is answered with a task, if the client supports tasks."""
    mcp_state_keys: SecretStr | None = Field(default=None, validation_alias="THREADKEEP_MCP_STATE_KEYS")
    """Keys that seal the `requestState` of MCP, separated by commas, of 32 bytes or more. The first one seals, all of
    them open. None: a key that the processes of the project share in Postgres."""

    model: str | None = Field(default=None, validation_alias=AliasChoices("THREADKEEP_MODEL", "MODEL"))
    """The built-in agent's model as `provider:name`. None: the offline model."""
    model_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("THREADKEEP_MODEL_BASE_URL", "MODEL_BASE_URL")
    )
    """The URL of an OpenAI-compatible API for `model`."""
    offline_pause_s: float = Field(default=0.02, ge=0, le=10, validation_alias="THREADKEEP_OFFLINE_PAUSE")
    """Seconds that the offline model pauses before each streamed word."""

    @property
    def executes_runs(self) -> bool:
        """Whether this process runs graphs."""
        return self.role != "api"

    @property
    def project_id(self) -> str:
        """The project id: `project`, or that of the built-in agent."""
        return self.project or BUILTIN_PROJECT

    @property
    def data_path(self) -> Path:
        """The folder of the embedded Postgres: `data_dir`, or a folder for the project."""
        return self.data_dir or user_data_path() / "projects" / _folder_name(self.project_id)

    @field_validator("project")
    @classmethod
    def _printable(cls, value: str | None) -> str | None:
        if value is not None and not (value.strip() and value.isprintable()):
            raise ValueError("must be a name of printable characters")
        return value

    @property
    def max_connections(self) -> int:
        """Largest number of connections of this process: both pools, the listener and the heartbeat."""
        return self.api_connections + self.run_connections + 2

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names in `hosts`."""
        return tuple(name.strip(" []").lower() for name in (self.hosts or "").split(",") if name.strip())

    @field_validator("hosts")
    @classmethod
    def _names_without_ports(cls, value: str | None) -> str | None:
        for name in (value or "").split(","):
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+|\[?[0-9A-Fa-f:.]+\]?|", name.strip()):
                raise ValueError(f"{name.strip()!r} is not a host name: write names without scheme and port")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        return log_level(value) if isinstance(value, str) else value

    @field_validator("mcp_state_keys")
    @classmethod
    def _state_key_length(cls, value: SecretStr | None) -> SecretStr | None:
        keys = _split_keys(value)
        if any(len(key) < STATE_KEY_BYTES for key in keys) or len(set(keys)) < len(keys):
            raise ValueError(f"each key must have {STATE_KEY_BYTES} bytes or more, and no key may occur twice")
        return value

    @property
    def state_keys(self) -> tuple[bytes, ...]:
        """The keys of `mcp_state_keys`. Empty: the key is in Postgres."""
        return _split_keys(self.mcp_state_keys)

    @field_validator("aes_key")
    @classmethod
    def _key_length(cls, value: SecretStr | None) -> SecretStr | None:
        if any(len(key) not in AES_KEY_BYTES for key in _aes_keys(value)):
            raise ValueError(
                "LANGGRAPH_AES_KEY: each key must have 16, 24 or 32 bytes, and commas separate several keys"
            )
        return value

    @property
    def aes_keys(self) -> tuple[bytes, ...]:
        """The encryption keys of checkpoints. The first one encrypts, and all of them decrypt."""
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
            # The model is frozen for everybody else.
            object.__setattr__(self, "api_connections", api)
            object.__setattr__(self, "run_connections", self.pool_max_size - api)
        return self


def user_data_path() -> Path:
    """Return the user's data folder (on Linux `~/.local/share/threadkeep`)."""
    return platformdirs.user_data_path("threadkeep")


def _folder_name(project_id: str) -> str:
    """Return a folder name that is unique for the project."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", project_id).strip("-")[:60]
    if plain == project_id == project_id.lower():  # some file systems ignore case
        return plain
    return f"{plain or 'project'}-{hashlib.sha256(project_id.encode()).hexdigest()[:8]}"


def log_level(text: str) -> str:
    """Return this server's log level for a level name of any program."""
    return LEVELS.get(text.strip().lower(), text.strip().lower())


def names_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the environment names of a setting. The first one that is set is used."""
    alias = field.validation_alias
    return tuple(str(name) for name in alias.choices) if isinstance(alias, AliasChoices) else (str(alias),)


def environment_names() -> set[str]:
    """Return the environment names of all settings."""
    return {name for field in Settings.model_fields.values() for name in names_of(field)}


NOTHING: Mapping[str, str] = MappingProxyType({})


def _aes_keys(value: SecretStr | None) -> tuple[bytes, ...]:
    """Split the keys at commas. A text with the length of a key is one key, even if it contains commas."""
    if value is None:
        return ()
    encoded = value.get_secret_value().encode()
    return (encoded,) if len(encoded) in AES_KEY_BYTES else tuple(encoded.split(b","))


def _split_keys(value: SecretStr | None) -> tuple[bytes, ...]:
    return () if value is None else tuple(key.strip().encode() for key in value.get_secret_value().split(","))


def load_settings(overrides: Mapping[str, Any] | None = None, project: Mapping[str, str] = NOTHING) -> Settings:
    """Return the settings of the environment, with `overrides`. Raise StartupError if one is unknown or not valid.

    `project` are the variables of the project's `env`, before they are set. Variables of the process have priority.
    """
    # Before the values are checked: a misspelt name is the likely cause of a missing value.
    _refuse_unknown(name for name in (*os.environ, *project) if name.startswith(PREFIX))
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for setting, field in Settings.model_fields.items():
        if variable := _find_variable(names_of(field), project):
            names[setting], values[setting] = variable
    if "database_uri" not in values and any(os.environ.get(name) for name in libpq.DATABASE_NAMES):
        values["database_uri"] = ""  # with an empty conninfo, libpq reads its own variables
    try:
        chosen = Settings(**{**values, **(overrides or {})})
    except ValidationError as error:
        raise StartupError("settings: " + "; ".join(_lines(error, names))) from None
    return _pinned(chosen, libpq.foreign_names(project, os.environ))


def _find_variable(names: tuple[str, ...], project: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the name and value of the first variable that is set. An empty value counts as unset."""
    for name in names:
        if value := os.environ.get(name):
            return name, value
    for name in names:
        if (value := project.get(name)) and _is_setting(name, value):
            return name, value
    return None


def _is_setting(name: str, value: str) -> bool:
    """Whether a variable of a project's `env` is a setting of the server."""
    if name in {"DATABASE_URI", "POSTGRES_URI"} and not libpq.is_postgres(value):
        return False  # the app's own database
    return name.startswith(PREFIX) or name in PLATFORM


def _lines(error: ValidationError, names: Mapping[str, str]) -> Iterable[str]:
    for item in error.errors():
        setting = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        hint = ""
        if names.get(setting) == "DATABASE_URL":
            hint = ": if another program uses this variable, set DATABASE_URI, which has priority"
        yield f"{names.get(setting, setting)}: {message}{hint}"


def _pinned(chosen: Settings, foreign: frozenset[str]) -> Settings:
    uris = {"database_uri": chosen.database_uri, "database_direct_uri": chosen.database_direct_uri}
    pinned_uris = {name: libpq.pinned(uri, foreign) for name, uri in uris.items() if uri is not None}
    return chosen.model_copy(update=pinned_uris)


def origins(project: Mapping[str, str] = NOTHING) -> dict[str, list[str]]:
    """Return the names of settings that were read, by their source, and the project's variables that are no settings."""
    read = {
        variable[0]: "from_process" if os.environ.get(variable[0]) else "from_project"
        for field in Settings.model_fields.values()
        if (variable := _find_variable(names_of(field), project))
    }
    generic = (environment_names() | set(libpq.DATABASE_NAMES)) & {*project} - {*os.environ}
    sources = ("from_process", "from_project")
    by_source = {source: sorted(name for name in read if read[name] == source) for source in sources}
    by_source["left_to_the_project"] = sorted(name for name in generic if not _is_setting(name, project[name]))
    return {source: names for source, names in by_source.items() if names}


def without_effect(project: Mapping[str, str] = NOTHING) -> list[str]:
    """Return the platform's names that are set but have no effect on this server."""
    environ = {**project, **os.environ}
    return sorted(name for name in WITHOUT_EFFECT if environ.get(name, "").lower() not in {"", "0", "false"})


def environment(prefix: str) -> dict[str, str]:
    """Return the environment variables whose names begin with `prefix`."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def early_log_level() -> str:
    """Return the log level until the settings are loaded. It is `info` if the variable is unset or not valid."""
    variable = _find_variable(names_of(Settings.model_fields["log_level"]), NOTHING)
    level = log_level(variable[1]) if variable else "info"
    return level if level in {"debug", "info", "warning", "error"} else "info"


def _refuse_unknown(names: Iterable[str]) -> None:
    setting_names = environment_names()
    for name in names:
        if name not in setting_names:
            nearest = difflib.get_close_matches(name, setting_names, n=1, cutoff=0)
            raise StartupError(f"the setting {name} is not known: did you mean {nearest[0]}?")
