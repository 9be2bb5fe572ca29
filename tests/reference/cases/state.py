"""State: what a thread holds, now and earlier, and changing it by hand."""

from recording import NOWHERE, Server

STATE = "GET /threads/{thread}/state"
UPDATE = "POST /threads/{thread}/state"
HISTORY = "POST /threads/{thread}/history"


def state_read(server: Server) -> None:
    """The newest state, and the state at a checkpoint."""
    at = {"thread": server.thread()}
    server("of an empty thread", STATE, at=at)
    server("history of an empty thread", HISTORY, {}, at=at)
    server.run(at["thread"], assistant_id="chain", input={"items": ["x"]}, metadata={"mine": 1})
    server("newest", STATE, at=at)
    server("newest, select", STATE, at=at, query={"select": "values"})
    past = server("history", HISTORY, {"limit": 10}, at=at)
    at["checkpoint"] = past[2]["checkpoint"]["checkpoint_id"]
    server("at a checkpoint", "GET /threads/{thread}/state/{checkpoint}", at=at)
    server("at an unknown checkpoint", "GET /threads/{thread}/state/{checkpoint}", at=at | {"checkpoint": NOWHERE})
    server("at a bad checkpoint", "GET /threads/{thread}/state/nope", at=at)
    checkpoint = "POST /threads/{thread}/state/checkpoint"
    server("by a checkpoint", checkpoint, {"checkpoint": past[2]["checkpoint"]}, at=at)
    server("by a checkpoint without id", checkpoint, {"checkpoint": {"thread_id": at["thread"]}}, at=at)
    server("by no checkpoint", checkpoint, {}, at=at)
    server("of an unknown thread", STATE, at={"thread": NOWHERE})
    server("of a bad thread", "GET /threads/nope/state")


def state_history(server: Server) -> None:
    """History in all its forms."""
    at = {"thread": server.thread()}
    server.run(at["thread"], assistant_id="chain", input={"items": ["x"]})
    server.run(at["thread"], assistant_id="chain", input={"items": ["y"]}, metadata={"mine": "second"})
    past = server("ten", HISTORY, {"limit": 20}, at=at)
    server("default limit", HISTORY, {}, at=at)
    server("default limit, GET", "GET /threads/{thread}/history", at=at)
    server("three, GET", "GET /threads/{thread}/history", at=at, query={"limit": 3})
    before = past[1]["checkpoint_id"]
    server("before an id, GET", "GET /threads/{thread}/history", at=at, query={"before": before, "limit": 2})
    server("before an id", HISTORY, {"before": before, "limit": 2}, at=at)
    server("before a checkpoint", HISTORY, {"before": past[1]["checkpoint"], "limit": 2}, at=at)
    wrapped = {"configurable": {"checkpoint_id": before}}
    server("before a config", HISTORY, {"before": wrapped, "limit": 2}, at=at)
    server("by metadata", HISTORY, {"metadata": {"step": 0}, "limit": 10}, at=at)
    server("by metadata of a run", HISTORY, {"metadata": {"mine": "second"}, "limit": 10}, at=at)
    server("by source", HISTORY, {"metadata": {"source": "input"}, "limit": 10}, at=at)
    server("limit 0", HISTORY, {"limit": 0}, at=at)
    server("limit 1001", HISTORY, {"limit": 1001}, at=at)
    server("of an unknown thread", HISTORY, {}, at={"thread": NOWHERE})


def state_of_subgraphs(server: Server) -> None:
    """A subgraph that waits, its state, and its history."""
    at = {"thread": server.thread()}
    server.run(at["thread"], assistant_id="asking_parent", input={"items": ["x"]})
    found = server("newest", STATE, at=at)
    server("with subgraphs", STATE, at=at, query={"subgraphs": "true"})
    inner = found["tasks"][0]["checkpoint"]
    server("of the subgraph", "POST /threads/{thread}/state/checkpoint", {"checkpoint": inner}, at=at)
    server("history of the subgraph", HISTORY, {"checkpoint": inner, "limit": 5}, at=at)
    server("update the subgraph", UPDATE, {"values": {"items": ["by hand"]}, "checkpoint": inner}, at=at)
    server("with subgraphs, updated", STATE, at=at, query={"subgraphs": "true"})
    server("parent, done", "POST /threads/{thread}/runs/wait", {"assistant_id": "asking_parent"}, at=at)
    server("history, done", HISTORY, {"limit": 10}, at=at)


def state_update(server: Server) -> None:
    """Changing a state by hand."""
    at = {"thread": server.thread()}
    server("before any run", UPDATE, {"values": {"items": ["a"]}}, at=at)
    server.run(at["thread"], assistant_id="chain", input={"items": ["x"]})
    server("values", UPDATE, {"values": {"items": ["hand"]}}, at=at)
    server("newest", STATE, at=at)
    server("thread after", "GET /threads/{thread}", at=at)
    server("as a node", UPDATE, {"values": {"items": ["as first"]}, "as_node": "first"}, at=at)
    server("newest as a node", STATE, at=at)
    server("thread as a node", "GET /threads/{thread}", at=at)
    server("as an unknown node", UPDATE, {"values": {"items": ["x"]}, "as_node": "zz"}, at=at)
    server("as the end", UPDATE, {"values": None, "as_node": "__end__"}, at=at)
    server("thread as the end", "GET /threads/{thread}", at=at)
    server("no values", UPDATE, {"values": None}, at=at)
    server("nothing", UPDATE, {}, at=at)
    server("unknown keys", UPDATE, {"values": {"zz": 1}}, at=at)
    server("a list of dicts", UPDATE, {"values": [{"items": ["l1"]}, {"items": ["l2"]}]}, at=at)
    server("a string", UPDATE, {"values": "nope"}, at=at)
    past = server("history", HISTORY, {"limit": 20}, at=at)
    older = past[-2]["checkpoint"]
    server("fork by id", UPDATE, {"values": {"items": ["f"]}, "checkpoint_id": older["checkpoint_id"]}, at=at)
    server("newest of the fork", STATE, at=at)
    server("fork by checkpoint", UPDATE, {"values": {"items": ["g"]}, "checkpoint": older, "as_node": "first"}, at=at)
    server("go on", "POST /threads/{thread}/runs/wait", {"assistant_id": "chain"}, at=at)
    server("patch", "PATCH /threads/{thread}/state", {"metadata": {"a": 1}}, at=at)
    server("of an unknown thread", UPDATE, {"values": {}}, at={"thread": NOWHERE})


def state_of_function(server: Server) -> None:
    """A functional entrypoint's."""
    at = {"thread": server.thread()}
    for step in (2, 3):
        asked = {"assistant_id": "counter", "input": step}
        server(f"add {step}", "POST /threads/{thread}/runs/wait", asked, at=at)
    server("newest", STATE, at=at)
    server("history", HISTORY, {"limit": 10}, at=at)


CASES = (state_read, state_history, state_of_subgraphs, state_update, state_of_function)
