"""Stored: requests that store hostile values, and requests that read them afterwards."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hostile.corpus import JSON, RUN, VALUES, Attack, fields_of
from threadkeep.api.langgraph import assistants, crons, runs, store, thread_state, threads
from threadkeep.api.protocol_v2 import commands

CONFIGS: tuple[Any, ...] = (
    None,
    "text",
    [],
    [1],
    5,
    *({"configurable": value} for value in (None, "text", [1], 5, True, {}, {"thread_id": 1}, {"__pregel_x": 1})),
    *({"tags": value} for value in (None, "text", [1], {"a": 1}, [None])),
    *({"metadata": value} for value in (None, "text", [1], 5)),
    *({"recursion_limit": value} for value in (None, "5", 0, -1, 1.5, True, 10**9, [])),
    *({"callbacks": value} for value in ("text", [1], {"a": 1})),
    *({"max_concurrency": value} for value in ("text", -1, 0, 1.5)),
    *({"run_name": value} for value in (1, [], {})),
    *({"run_id": value} for value in ("text", 1)),
)
"""Configs that are none, or have parts that are none."""
CHECKPOINTS: tuple[Any, ...] = (
    {"checkpoint_id": "text"},
    {"checkpoint_id": "1" * 200},
    {"checkpoint_id": None, "checkpoint_ns": "a|b:c"},
    {"checkpoint_map": {"": "text"}},
    {"checkpoint_map": {"a": 1}},
    {"configurable": "text"},
    {"configurable": {"checkpoint_id": 5}},
)
COMMANDS: tuple[Any, ...] = (
    {"resume": {"text": 1}},
    {"resume": [1]},
    {"update": {"items": "no list"}},
    {"update": {"unknown": 1}},
    {"update": [["items", ["x"]], ["unknown", 1]]},
    {"update": [["items"]]},
    {"goto": "nowhere"},
    {"goto": ["first", "nowhere"]},
    {"goto": {"node": "nowhere", "input": None}},
    {"goto": {"node": "first", "input": 5}},
    {"goto": "__end__"},
    {"goto": "__start__"},
)
PARTICULAR: Mapping[str, tuple[Any, ...]] = {
    "config": CONFIGS,
    "checkpoint": CHECKPOINTS,
    "command": COMMANDS,
    "updates": COMMANDS,
    "input": (
        {"items": "no list"},
        {"items": [{"lc": 1, "type": "constructor", "id": ["os", "system"]}]},
        {"other": 1},
    ),
    "values": ({"items": "no list"}, {"unknown": 1}, [{"items": ["x"]}, {"items": 5}], [5]),
    "supersteps": tuple({"updates": [{"values": None, "as_node": "first", **one}]} for one in ({}, {"command": {}})),
    "as_node": ("nowhere", "__start__", "__end__", "__input__", "__copy__", "first"),
    "schedule": ("* * * * * *", "@reboot", "60 * * * *", "* * 30 2 *", "0 0 0 0 0", "*/0 * * * *", "\n"),
    "timezone": ("Nowhere/At_all", "../../etc/passwd", "UTC\0", "Europe/Berlin"),
    "end_time": ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "now", "2020-01-01T00:00:00+99:00"),
    "webhook": ("http://", "http://[::1", "ftp://x", "http://user:word@example.com", "http://example.com:99999/"),
    "namespace": (["a", ""], ["a.b"], ["langgraph"], [], ["a" * 5000], ["\ud800"], ["%"], ["a"] * 200),
    "interrupt_before": (["nowhere"], "*", "nowhere"),
    "stream_mode": (["nothing"], [], "events", ["messages", "messages-tuple"], ["debug", "debug"]),
    "ttl": ({"ttl": 1e-9}, {"ttl": 1e308}, 0.5, {"ttl": 1, "strategy": "keep_latest"}),
    "graph_id": ("nowhere", "asking", "failing"),
    "assistant_id": ("nowhere", "asking", "failing", "00000000-0000-0000-0000-000000000000"),
}
"""Beside `VALUES`: what a field of this name is given."""
EVENT_IDS: tuple[str, ...] = (
    "-1",
    "0",
    "1",
    "999999999999999-0",
    "999999999999999-999999999",
    "1-1",
    "9223372036854775807",
    "9223372036854775808",
    "9" * 400,
    "-9223372036854775809",
    "1.5",
    "1e9",
    "\u0661",
    "text",
)
Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A request that leaves something behind, and the requests that read it. `{thread_id}` is of a thread of its own."""

    name: str
    write: Attack
    readers: Callable[[Answer], Iterator[Attack]]


SHARE = 4
"""Each field gets one in so many of `VALUES`, in turn: all of them together take ten minutes."""


def stored() -> Iterator[StoredResult]:
    """All cases."""
    for name, path, model, good, readers in KINDS:
        for turn, field in enumerate(fields_of(model)):
            for value in (*VALUES[turn % SHARE :: SHARE], *PARTICULAR.get(field, ())):
                body = json.dumps({**good, field: value}).encode()
                write = Attack(method="PUT" if "store" in path else "POST", path=path, body=body, headers=JSON)
                yield StoredResult(name=f"{name} {field}={value!r:.80}", write=write, readers=readers)


def get(path: str, **headers: str) -> Attack:
    return Attack(method="GET", path=path, headers=headers)


def post(path: str, body: Any = None, method: str = "POST") -> Attack:
    return Attack(method=method, path=path, body=json.dumps({} if body is None else body).encode(), headers=JSON)


def _of_assistant(made: Answer) -> Iterator[Attack]:
    path = f"/assistants/{made['assistant_id']}"
    run = RUN | {"assistant_id": made["assistant_id"]}
    yield from (get(path), get(f"{path}/graph?xray=1"), get(f"{path}/schemas"), get(f"{path}/subgraphs"))
    yield from (post(f"{path}/versions"), post("/assistants/search", {"metadata": made["metadata"], "limit": 2}))
    yield from (post("/runs/wait", run), post("/runs/wait", run | {"context": {"a": 1}}))
    yield post("/runs/wait", run | {"config": {"configurable": {"a": 1}, "tags": ["a"], "metadata": {"a": 1}}})
    yield post(path, {"metadata": {"more": 1}, "config": {"tags": ["b"]}}, method="PATCH")
    yield from (post(f"{path}/latest", {"version": 1}), post("/runs/wait", run))


def _of_thread(made: Answer) -> Iterator[Attack]:
    path = f"/threads/{made['thread_id']}"
    yield from (get(path), get(f"{path}/state?subgraphs=true"), get(f"{path}/history?limit=10"), get(f"{path}/runs"))
    yield post(
        "/threads/search", {"metadata": made["metadata"], "limit": 2, "select": ["values", "config", "metadata"]}
    )
    yield from (post(f"{path}/runs/wait", RUN), post(f"{path}/copy"), get(f"{path}/storage"), get(f"{path}/state"))
    yield post(f"{path}/commands", {"id": 1, "method": "agent.getTree", "params": {}})
    yield post(f"{path}/state", {"values": {"items": ["more"]}})
    yield post("/threads/prune", {"thread_ids": [made["thread_id"]], "strategy": "keep_latest"})


def _of_run(made: Answer) -> Iterator[Attack]:
    thread = f"/threads/{made['thread_id']}"
    path = f"{thread}/runs/{made['run_id']}"
    yield from (get(f"{path}/join"), get(path), get(thread), get(f"{thread}/state"), get(f"{thread}/history?limit=10"))
    answer = {"interrupt_id": "x", "response": 1, "config": {"configurable": {"a": 1}}}
    yield post(f"{thread}/commands", {"id": 1, "method": "input.respond", "params": answer})
    yield post(f"{thread}/commands", {"id": 2, "method": "agent.getTree", "params": {"run_id": made["run_id"]}})
    yield from (post(f"{thread}/runs/wait", RUN), post(f"{path}/cancel"), get(f"{thread}/runs"))


def _of_cron(made: Answer) -> Iterator[Attack]:
    path = f"/runs/crons/{made['cron_id']}"
    yield from (get(path), post("/runs/crons/search", {"limit": 2}), post("/runs/crons/count", {"metadata": {}}))
    yield from (post(path, {"enabled": False}, method="PATCH"), post(path, {"config": {"tags": ["a"]}}, method="PATCH"))
    yield Attack(method="DELETE", path=path)


def _of_state(made: Answer) -> Iterator[Attack]:
    path = f"/threads/{made['checkpoint']['thread_id']}"
    yield from (get(f"{path}/state"), get(f"{path}/state/{made['checkpoint_id']}"), get(f"{path}/history?limit=3"))
    yield post(f"{path}/history", {"before": made["checkpoint"], "limit": 2})
    yield from (get(path), post(f"{path}/state/checkpoint", {"checkpoint": made["checkpoint"]}), post(f"{path}/copy"))


def _of_item(made: Answer) -> Iterator[Attack]:
    del made
    yield post("/store/items/search", {"namespace_prefix": [], "limit": 3})
    yield post("/store/items/search", {"namespace_prefix": ["hostile"], "query": "x", "filter": {"a": {"$gt": 1}}})
    yield from (get("/store/items?namespace=hostile&key=k"), post("/store/namespaces", {"max_depth": 1}))


KINDS: tuple[tuple[str, str, Any, dict[str, Any], Callable[[Answer], Iterator[Attack]]], ...] = (
    ("assistant", "/assistants", assistants.AssistantBody, {"graph_id": "chain"}, _of_assistant),
    (
        "assistant with a context",
        "/assistants",
        assistants.AssistantBody,
        {"graph_id": "chain", "context": {"x": 1}},
        _of_assistant,
    ),
    ("thread", "/threads", threads.ThreadBody, {"metadata": {"graph_id": "chain"}}, _of_thread),
    ("run", "/threads/{thread_id}/runs", runs.ThreadRunBody, RUN, _of_run),
    ("stateless run", "/runs", runs.StatelessRunBody, RUN | {"on_completion": "keep"}, _of_run),
    ("cron", "/runs/crons", crons.CronBody, RUN | {"schedule": "* * * * * *"}, _of_cron),
    (
        "state",
        "/threads/{thread_id}/state",
        thread_state.StateUpdateBody,
        {"values": {"items": ["x"]}},
        _of_state,
    ),
    ("item", "/store/items", store.PutBody, {"namespace": ["hostile"], "key": "k", "value": {"a": 1}}, _of_item),
)


def respond_params() -> Iterator[dict[str, Any]]:
    """Answers to a question that a thread asks, on a socket or not."""
    good = {"interrupt_id": "x", "response": 1}
    fields = ("interrupt_id", "response", "responses", "config", "metadata", "update", "goto")
    for turn, field in enumerate(fields):
        for value in (
            *VALUES[turn % SHARE :: SHARE],
            *PARTICULAR.get(field, ()),
            *(one.get(field) for one in COMMANDS),
        ):
            yield {**good, field: value}


def start_params() -> Iterator[dict[str, Any]]:
    """Starts of runs by the protocol v2."""
    for turn, field in enumerate((*fields_of(runs.ThreadRunBody), "multitaskStrategy")):
        for value in (*VALUES[turn % SHARE :: SHARE], *PARTICULAR.get(field, ())):
            yield {**RUN, field: value}


METHODS = tuple(commands.METHODS)
