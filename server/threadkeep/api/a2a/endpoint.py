"""Endpoint: one path for each agent, with all methods of A2A. The name of a method decides the version of the protocol."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from threadkeep.api.a2a import legacy
from threadkeep.api.a2a.agents import named_agent
from threadkeep.api.a2a.cards import card_fields
from threadkeep.api.a2a.errors import (
    METHOD_NOT_FOUND,
    A2AError,
    error_of_problem,
    task_not_found,
    unsupported,
)
from threadkeep.api.a2a.fields import Fields
from threadkeep.api.a2a.push_configs import (
    create_config,
    delete_config,
    get_config,
    list_configs,
    put_first_config,
    read_push_config,
)
from threadkeep.api.a2a.responses import TaskResult, task_stream
from threadkeep.api.a2a.rpc import (
    Dialect,
    RpcId,
    add_rpc_error,
    check_version,
    encode_error,
    encode_result,
    id_of,
    parse_body,
    read_request,
)
from threadkeep.api.a2a.send import SendRequest, SentTask, read_send_request, send
from threadkeep.api.a2a.streams import subscription_events, task_events
from threadkeep.api.a2a.task_methods import (
    cancel_task,
    get_task,
    list_tasks,
    require_active_task,
    require_agent,
)
from threadkeep.api.a2a.tasks import TaskReader, TaskView
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import encoded_json_response
from threadkeep.base.problems import NotFound, Problem
from threadkeep.runs.service import RunHandle

IN_RPC: Final = frozenset({400, 422})
"""HTTP statuses of problems that A2A answers as JSON-RPC errors with 200."""

Result = dict[str, Any]


class RpcBody(BaseModel):
    """A request of JSON-RPC 2.0."""

    model_config = ConfigDict(extra="ignore")

    jsonrpc: str = "2.0"
    id: str | int | None = None
    method: str
    params: dict[str, Any] | None = None


class RpcAnswer(BaseModel):
    """An answer of JSON-RPC 2.0: the result of the method, or an error."""

    jsonrpc: str
    id: str | int | None
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCall:
    """A call of a method."""

    call: AuthorizedRequest[Any, Any]
    name: str
    """The agent, as the path calls it."""
    rpc_id: RpcId
    params: Fields
    dialect: Dialect

    async def answer(self, result: object) -> Response:
        """The answer with a result."""
        return encoded_json_response(await encode_result(self.rpc_id, result))

    def task(self, task: Result) -> Result:
        """A task in the client's dialect."""
        return legacy.task_out(task) if self.dialect == "0.3" else task

    def sent(self, task: Result) -> Result:
        """The result of SendMessage."""
        return legacy.task_out(task) if self.dialect == "0.3" else {"task": task}

    def push_config(self, config: Result) -> Result:
        """A push notification config in the client's dialect."""
        return legacy.push_config_out(config) if self.dialect == "0.3" else config

    def event(self, event: Result) -> Result:
        """An event in the client's dialect."""
        return legacy.event_out(event) if self.dialect == "0.3" else event


Method = Callable[[MethodCall], Awaitable[Response]]


async def endpoint(call: AuthorizedRequest[None, None]) -> Response:
    """POST /a2a/{assistant_id}: call a method of A2A 1.0 or 0.3 of an agent.

    A task is a run together with the runs that answer its questions. A context is a thread. SendStreamingMessage and
    SubscribeToTask answer with a stream of events.
    """
    raw = await call.read_body()
    rpc_id: RpcId = None
    try:
        body = await parse_body(raw)
        # The id is read before the rest is checked, so that the error for a wrong request has its id.
        rpc_id = id_of(body)
        request = read_request(body)
        # Before the method, because an unknown version may have methods that are unknown here.
        check_version(call.request)
        method, dialect = _method(request.method)
        params = legacy.params_of(request.method, request.params) if dialect == "0.3" else request.params
        fields = Fields(params, "")
        return await method(
            MethodCall(call=call, name=named_agent(call), rpc_id=rpc_id, params=fields, dialect=dialect)
        )
    except A2AError as error:
        return encoded_json_response(encode_error(rpc_id, error))
    except Problem as problem:
        if problem.status in IN_RPC:
            return encoded_json_response(encode_error(rpc_id, error_of_problem(problem)))
        # 401, 429 and 503 keep their status for proxies and retries. A JSON-RPC client reads `error` in the same body.
        add_rpc_error(problem, rpc_id)
        raise


async def send_message(method: MethodCall) -> Response:
    """SendMessage: wait until the task has ended or asks, unless the client does not want to."""
    request, sent = await _send(method)
    tasks = TaskReader(chains=sent.chains)
    if request.immediate:
        return await method.answer(method.sent(await _present_task(tasks, sent, request.view)))
    # A repeated message starts no run. Its request waits for the run that the first request started.
    handle = sent.handle or await _handle(sent)
    return TaskResult(method.call, method.rpc_id, handle, partial(_settled_task, method, sent, request.view))


async def _send(method: MethodCall) -> tuple[SendRequest, SentTask]:
    """Start the run of a message, and store its push notification config."""
    request = read_send_request(method.params)
    configuration = method.params.message("configuration")
    push = configuration.message("taskPushNotificationConfig") if configuration is not None else None
    # Read before the run starts, so that a wrong config starts nothing.
    config = read_push_config(method.call, push) if push is not None else None
    sent = await send(method.call, method.name, request)
    if config is not None:
        await put_first_config(method.call, sent, config, method.dialect)
    return request, sent


async def _handle(sent: SentTask) -> RunHandle:
    """The newest run of a task whose message was sent before."""
    newest = await sent.chains.newest(sent.chain_id)
    if newest is None:
        raise task_not_found(sent.chain_id)
    return sent.chains.handle(newest)


async def _settled_task(method: MethodCall, sent: SentTask, view: TaskView) -> Result:
    try:
        await sent.chains.settled(sent.chain_id)
    except NotFound:
        # The thread was deleted during the wait. The method has run, so a 404 of the endpoint would be wrong.
        raise task_not_found(sent.chain_id) from None
    return method.sent(await _present_task(TaskReader(chains=sent.chains), sent, view))


async def _present_task(tasks: TaskReader, sent: SentTask, view: TaskView) -> Result:
    task = await tasks.task(sent.chain_id, view)
    if task is None:
        raise task_not_found(sent.chain_id)
    return task


async def stream_message(method: MethodCall) -> Response:
    """SendStreamingMessage: follow the task of a message until it has ended or asks."""
    request, sent = await _send(method)
    chain = await sent.chains.runs(sent.chain_id)
    if not chain:
        raise task_not_found(sent.chain_id)
    events = task_events(TaskReader(chains=sent.chains), chain, request.view, sent.handle)
    return _stream(method, events, sent.handle)


async def subscribe(method: MethodCall) -> Response:
    """SubscribeToTask: send the present state of a task, and then its events."""
    active = await require_active_task(method.call, method.name, method.params)
    return _stream(method, subscription_events(active.tasks, active.chain), None)


def _stream(method: MethodCall, events: AsyncGenerator[Result], started: RunHandle | None) -> Response:
    async def rendered() -> AsyncGenerator[Result]:
        # `async for` does not close a generator that is left early, and this one is subscribed to the run.
        async with aclosing(events) as source:
            async for event in source:
                yield method.event(event)

    return task_stream(method.call, method.rpc_id, rendered(), started)


async def read_task(method: MethodCall) -> Response:
    """GetTask."""
    return await method.answer(method.task(await get_task(method.call, method.name, method.params)))


async def search_tasks(method: MethodCall) -> Response:
    """ListTasks."""
    return await method.answer(await list_tasks(method.call, method.name, method.params))


async def stop_task(method: MethodCall) -> Response:
    """CancelTask."""
    return await method.answer(method.task(await cancel_task(method.call, method.name, method.params)))


async def extended_card(method: MethodCall) -> Response:
    """GetExtendedAgentCard: return the same card to an authenticated caller."""
    agent = await require_agent(method.call, method.name)
    if method.call.state.authenticator is None:
        # The card says `extendedAgentCard: false` in this case, and A2A then wants this error.
        raise unsupported("The agent has no extended card, because this server does not authenticate its callers")
    return await method.answer(await card_fields(method.call, agent))


async def create_push(method: MethodCall) -> Response:
    """CreateTaskPushNotificationConfig."""
    config = await create_config(method.call, method.name, method.params, method.dialect)
    return await method.answer(method.push_config(config))


async def read_push(method: MethodCall) -> Response:
    """GetTaskPushNotificationConfig."""
    return await method.answer(method.push_config(await get_config(method.call, method.name, method.params)))


async def list_pushes(method: MethodCall) -> Response:
    """ListTaskPushNotificationConfigs."""
    configs_page = await list_configs(method.call, method.name, method.params)
    if method.dialect == "0.3":
        # 0.3 has no pages: the result is the list itself.
        return await method.answer([legacy.push_config_out(config) for config in configs_page["configs"]])
    return await method.answer(configs_page)


async def delete_push(method: MethodCall) -> Response:
    """DeleteTaskPushNotificationConfig."""
    await delete_config(method.call, method.name, method.params)
    # The result is null in 0.3, and an empty message in 1.0.
    return await method.answer(None if method.dialect == "0.3" else {})


METHODS: Final[Mapping[str, Method]] = {
    "SendMessage": send_message,
    "SendStreamingMessage": stream_message,
    "GetTask": read_task,
    "ListTasks": search_tasks,
    "CancelTask": stop_task,
    "SubscribeToTask": subscribe,
    "GetExtendedAgentCard": extended_card,
    "CreateTaskPushNotificationConfig": create_push,
    "GetTaskPushNotificationConfig": read_push,
    "ListTaskPushNotificationConfigs": list_pushes,
    "DeleteTaskPushNotificationConfig": delete_push,
}
"""The methods of 1.0."""
LEGACY_METHODS: Final[Mapping[str, Method]] = {
    "message/send": send_message,
    "message/stream": stream_message,
    "tasks/get": read_task,
    "tasks/cancel": stop_task,
    "tasks/resubscribe": subscribe,
    "agent/getAuthenticatedExtendedCard": extended_card,
    "tasks/pushNotificationConfig/set": create_push,
    "tasks/pushNotificationConfig/get": read_push,
    "tasks/pushNotificationConfig/list": list_pushes,
    "tasks/pushNotificationConfig/delete": delete_push,
}
"""The methods of 0.3."""


def _method(name: str) -> tuple[Method, Dialect]:
    """Return the method with a name, and the protocol version of its parameters. Raise A2AError if the method is unknown."""
    if (method := METHODS.get(name)) is not None:
        return method, "1.0"
    if (method := LEGACY_METHODS.get(name)) is not None:
        return method, "0.3"
    raise A2AError(METHOD_NOT_FOUND, f"Method not found: {name[:100]}")
