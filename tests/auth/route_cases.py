"""A request for every route and socket command, with the permissions that it needs.

A route that is not here fails `test_permissions.py`. `docs/how-to/authentication.md` lists the same permissions.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import anyio
import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from conftest import WAIT_S
from threadkeep.api.routes import SOCKETS, TABLE
from threadkeep.auth.authorization import PERMISSIONS, Condition, Operation, permissions

STRANGE_ASSISTANT: Final[Condition] = "the assistant is not a graph's own"
CREATES: Final[Condition] = "the thread may be created"
STOPS: Final[Condition] = "the strategy stops other runs"
EXISTS: Final[Condition] = "the row exists already"
NAMED: Final[Condition] = "a thread is named"
CANCELS: Final[Condition] = "the run is cancelled on disconnect"

RUN: Final[dict[str, Any]] = {"assistant_id": "{assistant_id}", "input": {"items": []}}
KEPT_RUN: Final = RUN | {"on_completion": "keep"}
THREAD_RUN: Final = RUN | {"if_not_exists": "create", "multitask_strategy": "interrupt"}
CRON: Final = RUN | {"schedule": "0 0 1 1 *", "multitask_strategy": "rollback"}
ITEM: Final = {"namespace": ["notes"], "key": "one"}
CHAT: Final = {
    "model": "{model}",
    "messages": [{"role": "user", "content": "hello"}],
    "metadata": {"thread_id": "{chat_thread_id}"},
}
SEND_MESSAGE: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {
        "message": {
            "messageId": "one",
            "role": "ROLE_USER",
            "parts": [{"data": {"items": []}}],
            "contextId": "{chat_thread_id}",
        }
    },
}
TOOL_CALL: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "chain", "arguments": {"items": []}},
}
PAGE: Final = {"threadId": "{chat_thread_id}", "runId": "one", "messages": [], "state": {"items": []}}
COMMANDS: Final[Mapping[str, Any]] = {
    "run.start": RUN | {"multitask_strategy": "interrupt"},
    "input.respond": {"interrupt_id": "x", "response": 1},
    "agent.getTree": {},
    "subscription.subscribe": {"channels": ["values"]},
    "subscription.unsubscribe": {"subscription_id": "x"},
    "subscription.reconnect": {},
}
"""The commands of the protocol v2. The subscriptions are on sockets only."""


@dataclass(frozen=True)
class Case:
    """A request, the operation of `PERMISSIONS` that it is, and the conditions that hold for it."""

    operation: Operation | None = None
    """None: the route needs one permission, its own."""
    conditions: Collection[Condition] = ()
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict[str, Any])


START: Final = Case("run.start", [STRANGE_ASSISTANT, CREATES], KEPT_RUN)
START_ON_THREAD: Final = Case("run.start", [STRANGE_ASSISTANT, CREATES, STOPS], THREAD_RUN)
FOLLOW: Final = Case("run.follow", [CANCELS], query={"cancel_on_disconnect": True})
ONE: Final = Case()
SEARCH: Final = Case(body={})

CASES: Final[Mapping[str, Case]] = {
    "POST /runs": START,
    "POST /runs/batch": Case("run.start", [STRANGE_ASSISTANT, CREATES], [KEPT_RUN]),
    "POST /runs/wait": START,
    "POST /runs/stream": START,
    "POST /query": Case("run.start", [CREATES], {"query": "hello"}),
    "POST /threads/{thread_id}/runs": START_ON_THREAD,
    "POST /threads/{thread_id}/runs/wait": START_ON_THREAD,
    "POST /threads/{thread_id}/runs/stream": START_ON_THREAD,
    "GET /threads/{thread_id}/runs": ONE,
    "GET /threads/{thread_id}/runs/{run_id}": Case("run.read"),
    "GET /threads/{thread_id}/runs/{run_id}/join": FOLLOW,
    "GET /threads/{thread_id}/runs/{run_id}/stream": FOLLOW,
    "POST /threads/{thread_id}/runs/{run_id}/cancel": Case("run.cancel"),
    "POST /runs/cancel": Case("run.cancel", body={"status": "all"}),
    "DELETE /threads/{thread_id}/runs/{run_id}": Case("run.delete"),
    "POST /runs/crons": Case("cron.create", [STRANGE_ASSISTANT, CREATES, STOPS], CRON | {"on_run_completed": "keep"}),
    "POST /threads/{thread_id}/runs/crons": Case("cron.create", [STRANGE_ASSISTANT, STOPS], CRON),
    "PATCH /runs/crons/{cron_id}": Case("cron.update", [STRANGE_ASSISTANT, STOPS], {"enabled": False}),
    "GET /runs/crons/{cron_id}": ONE,
    "POST /runs/crons/search": SEARCH,
    "POST /runs/crons/count": SEARCH,
    "DELETE /runs/crons/{cron_id}": ONE,
    "POST /assistants": Case(
        "assistant.create",
        [EXISTS],
        {"assistant_id": "{assistant_id}", "graph_id": "chain", "if_exists": "do_nothing"},
    ),
    "POST /assistants/search": SEARCH,
    "POST /assistants/count": SEARCH,
    "GET /assistants/{assistant_id}": ONE,
    "GET /assistants/{assistant_id}/graph": ONE,
    "GET /assistants/{assistant_id}/schemas": ONE,
    "GET /assistants/{assistant_id}/subgraphs": ONE,
    "GET /assistants/{assistant_id}/subgraphs/{namespace}": ONE,
    "POST /assistants/{assistant_id}/versions": SEARCH,
    "PATCH /assistants/{assistant_id}": Case(body={"name": "another"}),
    "POST /assistants/{assistant_id}/latest": Case(body={"version": 1}),
    "POST /threads": Case("thread.create", [EXISTS], {"thread_id": "{thread_id}", "if_exists": "do_nothing"}),
    "POST /threads/search": SEARCH,
    "POST /threads/count": SEARCH,
    "GET /threads/{thread_id}": ONE,
    "PATCH /threads/{thread_id}": Case(body={"metadata": {"note": "another"}}),
    "POST /threads/{thread_id}/copy": Case("thread.copy"),
    "GET /threads/{thread_id}/storage": ONE,
    "GET /threads/{thread_id}/state": ONE,
    "POST /threads/{thread_id}/state": Case(body={"values": {"items": ["foreign"]}, "as_node": "first"}),
    "POST /threads/{thread_id}/state/checkpoint": Case(body={"checkpoint": {}}),
    "GET /threads/{thread_id}/state/{checkpoint_id}": ONE,
    "GET /threads/{thread_id}/history": ONE,
    "POST /threads/{thread_id}/history": SEARCH,
    "GET /threads/{thread_id}/stream": ONE,
    "POST /threads/{thread_id}/stream/events": Case(body={"channels": ["values"]}),
    "POST /threads/{thread_id}/commands": Case(
        "thread.command",
        [STRANGE_ASSISTANT, CREATES, STOPS],
        {"id": 1, "method": "run.start", "params": COMMANDS["run.start"]},
    ),
    "POST /a2a/{assistant_id}": Case("task.send", [NAMED, STRANGE_ASSISTANT, CREATES], SEND_MESSAGE),
    "POST /ag-ui/{assistant_id}": Case("page.run", [STRANGE_ASSISTANT, CREATES], PAGE),
    "GET /v1/models": ONE,
    "GET /v1/models/{model}": ONE,
    "POST /v1/chat/completions": Case("chat.create", [NAMED, STRANGE_ASSISTANT, CREATES], CHAT),
    "POST /v1/responses": Case("response.create", [NAMED, STRANGE_ASSISTANT, CREATES], CHAT | {"input": "hello"}),
    "GET /v1/responses/{response_id}": Case("run.follow"),
    "GET /v1/responses/{response_id}/input_items": Case("run.follow"),
    "POST /v1/responses/{response_id}/cancel": Case("response.cancel"),
    "POST /v1/conversations": Case(body={"metadata": {"topic": "sums"}}),
    "GET /v1/conversations/{conversation_id}": ONE,
    "POST /v1/conversations/{conversation_id}": Case(body={"metadata": {"topic": "another"}}),
    "GET /v1/conversations/{conversation_id}/items": ONE,
    "POST /v1/conversations/{conversation_id}/items": Case(body={"items": [{"role": "user", "content": "more"}]}),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": ONE,
    "POST /mcp": Case("tool.call", [CREATES], TOOL_CALL),
    "PUT /store/items": Case(body=ITEM | {"value": {"text": "foreign"}}),
    "GET /store/items": Case(query={"namespace": "notes", "key": "one"}),
    "POST /store/items/search": Case(body={"namespace_prefix": ["notes"]}),
    "POST /store/namespaces": SEARCH,
    "DELETE /store/items": Case(body=ITEM),
    "POST /runs/search": SEARCH,
    "GET /workers": ONE,
    "GET /events": ONE,
    "GET /me": ONE,
    "GET /api-keys": ONE,
    "DELETE /api-keys/{key_id}": ONE,
    "POST /threads/prune": Case(body={"thread_ids": ["{thread_id}"]}),
    "DELETE /assistants/{assistant_id}": Case(
        "assistant.delete", ["the threads are deleted too"], query={"delete_threads": True}
    ),
    "DELETE /threads/{thread_id}": ONE,
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": ONE,
    "DELETE /v1/responses/{response_id}": Case("run.delete"),
    "DELETE /v1/conversations/{conversation_id}": ONE,
}
"""By route. Requests that take away what others need come last."""
SOCKET: Final = SOCKETS[0].path
SOCKET_CASES: Final[Mapping[str, Case]] = {
    f"WS {method}": Case("thread.command", [STRANGE_ASSISTANT, CREATES, STOPS] if method == "run.start" else [])
    for method in COMMANDS
}
"""By command on the socket."""
ENDLESS: Final = {"GET /events", "GET /threads/{thread_id}/stream", "POST /threads/{thread_id}/stream/events"}
ROUTES: Final = {operation.name: operation for operation in TABLE if operation.event != "public"}


def events_of(route: str) -> list[str]:
    """Every event that the request of a route or of a socket command needs, each once."""
    if route == "WS input.respond" or route.startswith(("WS agent", "WS sub")):
        return ["threads.read"]
    case = (CASES | SOCKET_CASES)[route]
    if ROUTES.get(route) and ROUTES[route].event == "caller":
        return []
    if case.operation is None:
        return [ROUTES[route].event]
    return list(
        dict.fromkeys(permission.event for permission in permissions(case.operation, frozenset(case.conditions)))
    )


def documented_permissions() -> dict[str, str]:
    """What each route and each command needs, as the guide says it."""
    routes = {f"`{route}`": _needs(ROUTES[route].event, case.operation) for route, case in CASES.items()}
    starts = dict.fromkeys(("command `run.start`", "command `input.respond`"), _needs("", "thread.command"))
    others = {f"command `{method}`": "`threads.read`" for method in COMMANDS}
    return {**routes, **others, **starts}


def _needs(event: str, operation: Operation | None) -> str:
    if operation is None:
        return "none: for every caller who is authenticated" if event == "caller" else f"`{event}`"
    needed = (
        f"`{permission.event}`" + ("" if permission.condition == "always" else f" if {permission.condition}")
        for permission in PERMISSIONS[operation]
    )
    return "<br>".join(needed)


THREAD: Final = frozenset({"thread_id", "run_id", "cron_id", "checkpoint_id"})
ALL: Final = THREAD | {"model", "chat_thread_id", "response_id", "conversation_id", "item_id", "item"}
DELETE_THREADS: Final = {"POST /threads/prune", "DELETE /threads/{thread_id}", "DELETE /assistants/{assistant_id}"}


def names_of(route: str) -> set[str]:
    """The rows that the request of a route or of a socket command is about, by the names of their ids."""
    case = CASES.get(route)
    template = [SOCKET, COMMANDS[route.removeprefix("WS ")]] if case is None else [route, case.body, case.query]
    names = set(re.findall(r"{(\w+)}", json.dumps(template)))
    if route in DELETE_THREADS:
        names |= {"thread_id", "cron_id"}
    return names | {"item"} if "/store/" in route else names


async def create_rows(http: httpx.AsyncClient, names: Collection[str] = ALL) -> dict[str, str]:
    """An assistant, and one of everything that is named: a thread with a state and a run, a cron, an item and so on."""
    assistant = (await http.post("/assistants", json={"graph_id": "chain"})).json()["assistant_id"]
    ids = {"assistant_id": assistant, "namespace": str(uuid4()), "key_id": str(uuid4())}
    if not THREAD.isdisjoint(names):
        ids |= await _create_thread(http, assistant, names)
    if not {"model", "response_id"}.isdisjoint(names):
        ids["model"] = (await http.post("/assistants", json={"graph_id": "speaking"})).json()["assistant_id"]
    if "chat_thread_id" in names:
        ids["chat_thread_id"] = (await http.post("/threads", json={})).json()["thread_id"]
    if "response_id" in names:
        body = {"model": ids["model"], "input": "hello"}
        ids["response_id"] = (await http.post("/v1/responses", json=body)).json()["id"]
    if not {"conversation_id", "item_id"}.isdisjoint(names):
        items = [{"role": "user", "content": "hello"}]
        ids["conversation_id"] = (await http.post("/v1/conversations", json={"items": items})).json()["id"]
        there = await http.get(f"/v1/conversations/{ids['conversation_id']}/items")
        ids["item_id"] = there.json()["data"][0]["id"]
    if "item" in names:
        await http.put("/store/items", json=ITEM | {"value": {"text": "hers"}})
    return ids


async def _create_thread(http: httpx.AsyncClient, assistant: str, names: Collection[str]) -> dict[str, str]:
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    run = await http.post(f"/threads/{thread}/runs", json={"assistant_id": assistant, "input": {"items": []}})
    ids = {"thread_id": thread, "run_id": run.json()["run_id"]}
    await http.get(f"/threads/{thread}/runs/{ids['run_id']}/join")
    if "cron_id" in names:
        cron = await http.post(f"/threads/{thread}/runs/crons", json=CRON | {"assistant_id": assistant})
        ids["cron_id"] = cron.json()["cron_id"]
    if "checkpoint_id" in names:
        state = (await http.get(f"/threads/{thread}/state")).json()
        ids["checkpoint_id"] = state["checkpoint"]["checkpoint_id"]
    return ids


async def status_of(http: httpx.AsyncClient, route: str, ids: Mapping[str, str]) -> int:
    """The status of a route's request; of a socket command the same, or 200. A stream is not read to its end."""
    if route.startswith("WS "):
        return await _status_on_socket(http, route.removeprefix("WS "), ids)
    case, (method, path) = CASES[route], route.split(" ")
    body = filled(case.body, ids)
    async with http.stream(method, path.format(**ids), json=body, params=dict(case.query)) as answer:
        if route not in ENDLESS:
            await answer.aread()
        return answer.status_code


async def _status_on_socket(http: httpx.AsyncClient, method: str, ids: Mapping[str, str]) -> int:
    url = str(http.base_url).rstrip("/").replace("http", "ws") + SOCKET.format(**ids)
    shown = {name: http.headers[name] for name in ("x-api-key", "authorization") if name in http.headers}
    with anyio.fail_after(WAIT_S):
        async with connect(url, additional_headers=shown) as socket:
            try:
                await socket.send(json.dumps({"id": 1, "method": method, "params": filled(COMMANDS[method], ids)}))
                frame = json.loads(await socket.recv())
            except ConnectionClosed:
                return (socket.close_code or 4000) - 4000
    if frame["type"] == "success" or frame.get("error") != "permission_denied":
        return 404 if "not found" in frame.get("message", "").lower() else 200
    return 403


def filled(template: Any, ids: Mapping[str, str]) -> Any:
    """The template with `{name}` replaced by the id of that name."""
    if isinstance(template, str):
        return ids.get(template[1:-1], template) if template.startswith("{") else template
    if isinstance(template, dict):
        return {name: filled(value, ids) for name, value in template.items()}
    return [filled(each, ids) for each in template] if isinstance(template, list) else template
