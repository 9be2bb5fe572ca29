"""Push notification configs: the webhooks of a task. They are called when the task ends or asks a question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from threadkeep.api.a2a.errors import invalid_params, push_not_supported, task_not_found
from threadkeep.api.a2a.fields import Fields
from threadkeep.api.a2a.rpc import Dialect
from threadkeep.api.a2a.send import SentTask
from threadkeep.api.a2a.task_methods import VisibleTask, require_task
from threadkeep.api.agents.chains import ChainReader
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base import ids
from threadkeep.base.problems import ValidationFailed
from threadkeep.persistence.encryption import DecryptionFailed, open_text, seal_text
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.tables import task_pushes
from threadkeep.tables.run_chains import ChainRun
from threadkeep.tables.task_pushes import TaskPush

MAX_CONFIGS: Final = 20
"""Of one task."""
MAX_SECRET: Final = 4096
"""Characters of a token or of credentials."""
MAX_PAGE: Final = 100
SCHEME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
"""A token of HTTP (RFC 9110)."""
# A line break in a value could add a header to the notification.
HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig:
    """A config as a client sends it."""

    config_id: str
    """Empty: the server makes one."""
    url: str
    token: str = field(repr=False)
    scheme: str
    credentials: str = field(repr=False)

    def row(self, run: ChainRun, protocol: Dialect, principal: str) -> TaskPush:
        """The row of the config of a task."""
        return TaskPush(
            chain_id=run.chain_id,
            config_id=self.config_id or str(ids.uuid7()),
            thread_id=run.thread_id,
            protocol=protocol,
            url=self.url,
            token=self.token or None,
            scheme=self.scheme or None,
            credentials=self.credentials or None,
            principal=principal,
        )


def read_push_config(call: AuthorizedRequest[Any, Any], fields: Fields) -> PushConfig:
    """Read a config. A2AError names the field that is wrong, or says that this server sends nothing."""
    policy = call.state.runs.webhooks
    if not policy.enabled:
        raise push_not_supported()
    authentication = fields.message("authentication") or Fields({}, fields.place("authentication"))
    config = PushConfig(
        config_id=fields.text("id"),
        url=fields.required_text("url"),
        token=_header_value(fields, "token"),
        scheme=authentication.text("scheme"),
        credentials=_header_value(authentication, "credentials"),
    )
    if len(config.config_id) > 255:
        raise fields.refusal("id", "must have at most 255 characters")
    if fields.has("authentication") and not SCHEME.fullmatch(config.scheme):
        raise authentication.refusal("scheme", "must be the name of a scheme of HTTP, such as Bearer")
    try:
        policy.check(config.url)
    # The policy knows webhooks, not A2A. The client needs the name of its field.
    except ValidationFailed as refused:
        raise fields.refusal("url", refused.detail) from None
    return config


def _header_value(fields: Fields, name: str) -> str:
    value = fields.text(name)
    if len(value) > MAX_SECRET or not HEADER_VALUE.fullmatch(value):
        raise fields.refusal(name, f"must be up to {MAX_SECRET} visible ASCII characters")
    return value


async def put_config(
    call: AuthorizedRequest[Any, Any], chains: ChainReader, run: ChainRun, config: PushConfig, protocol: Dialect
) -> TaskPush:
    """Store a config of a task that the caller may change."""
    push = config.row(run, protocol, call.caller.identity or "")
    if not await retry_conflicts(partial(_put, chains, push, None)):
        raise invalid_params("id", f"a task has at most {MAX_CONFIGS} push notification configs")
    return push


async def put_first_config(
    call: AuthorizedRequest[Any, Any], sent: SentTask, config: PushConfig, protocol: Dialect
) -> None:
    """Store the config of a message. If the task has ended meanwhile, notify the receiver at once."""
    chains = sent.chains
    run = await chains.newest(sent.chain_id)
    if run is None:
        raise task_not_found(sent.chain_id)
    push = config.row(run, protocol, call.caller.identity or "")
    if not await retry_conflicts(partial(_put, chains, push, run.run_id)):
        raise invalid_params(
            "configuration.taskPushNotificationConfig", f"a task has at most {MAX_CONFIGS} push notification configs"
        )


async def _put(chains: ChainReader, push: TaskPush, ended_run_id: UUID | None) -> bool:
    # `put` locks the thread until the commit. So a run ends before it, or sees the config.
    keys = chains.call.state.settings.aes_keys
    sealed = replace(push, token=seal_text(keys, push.token), credentials=seal_text(keys, push.credentials))
    async with chains.call.state.pool.connection(chains.filters) as conn, conn.transaction():
        if not await task_pushes.put(conn, sealed, most=MAX_CONFIGS):
            return False
        # The end of a run notifies the configs that exist then. A run that ended before this config has to be made up
        # for.
        if ended_run_id is not None:
            await task_pushes.enqueue(conn, ended_run_id, push.config_id)
    return True


async def create_config(
    call: AuthorizedRequest[Any, Any], name: str, params: Fields, protocol: Dialect
) -> dict[str, Any]:
    """CreateTaskPushNotificationConfig: add a config to a task, or replace the one of the same id."""
    task_id = params.required_text("taskId")
    config = read_push_config(call, params)
    task, chains = await _changeable(call, name, task_id)
    return config_fields(call, await put_config(call, chains, task.newest, config, protocol))


async def get_config(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> dict[str, Any]:
    """GetTaskPushNotificationConfig: read a config. Without an id, the only one."""
    configs = await _configs(call, name, params)
    config_id = params.text("id")
    matches = [each for each in configs if each.config_id == config_id or not config_id]
    if not matches:
        raise task_not_found(params.text("taskId"))
    return config_fields(call, matches[0])


async def list_configs(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> dict[str, Any]:
    """ListTaskPushNotificationConfigs: the configs of a task, by their ids."""
    size, after = params.integer("pageSize", least=0, most=MAX_PAGE) or MAX_PAGE, params.text("pageToken")
    sorted_configs = sorted(await _configs(call, name, params), key=lambda each: each.config_id)
    configs = [each for each in sorted_configs if each.config_id > after]
    token = configs[size - 1].config_id if len(configs) > size else ""
    return {"configs": [config_fields(call, each) for each in configs[:size]], "nextPageToken": token}


async def delete_config(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> None:
    """DeleteTaskPushNotificationConfig: nothing more is sent to a config. It need not be there."""
    task_id, config_id = params.required_text("taskId"), params.required_text("id")
    task, chains = await _changeable(call, name, task_id)
    async with call.state.pool.connection(chains.filters) as conn:
        await task_pushes.delete(conn, chains.filters, task.newest.chain_id, config_id)


async def _configs(call: AuthorizedRequest[Any, Any], name: str, params: Fields) -> Sequence[TaskPush]:
    task = await require_task(call, name, params.required_text("taskId"))
    filters = task.tasks.chains.filters
    async with call.state.pool.connection(filters) as conn:
        pushes = await task_pushes.listed(conn, filters, task.newest.chain_id)
    return [_opened(call, push) for push in pushes]


def _opened(call: AuthorizedRequest[Any, Any], push: TaskPush) -> TaskPush:
    """The config with its secrets in plain text. Secrets of a key that this server does not have are left out."""
    keys = call.state.settings.aes_keys
    try:
        return replace(push, token=open_text(keys, push.token), credentials=open_text(keys, push.credentials))
    except DecryptionFailed:
        return replace(push, token=None, credentials=None)


async def _changeable(call: AuthorizedRequest[Any, Any], name: str, task_id: str) -> tuple[VisibleTask, ChainReader]:
    """A task that the caller is authorized to change."""
    task = await require_task(call, name, task_id)
    run = task.newest
    value: dict[str, Any] = {"thread_id": run.thread_id, "run_id": run.run_id, "metadata": {}, "action": None}
    allowed = await call.authorize("threads.update", value)
    return task, ChainReader(call=call, filters=task.tasks.chains.filters.narrowed(allowed))


def config_fields(call: AuthorizedRequest[Any, Any], push: TaskPush) -> dict[str, Any]:
    """Return a config in the form of 1.0. Only its creator sees the secrets."""
    fields: dict[str, Any] = {"id": push.config_id, "taskId": str(push.chain_id), "url": push.url}
    # Several principals may share a thread. The secrets belong to the receiver of one of them.
    is_own = push.principal == (call.caller.identity or "")
    if push.token and is_own:
        fields["token"] = push.token
    if push.scheme:
        secret = {"credentials": push.credentials} if push.credentials and is_own else {}
        fields["authentication"] = {"scheme": push.scheme, **secret}
    return fields
