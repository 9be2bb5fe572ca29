"""Runs: what is asked, what is refused, what is kept of it."""

from recording import NOWHERE, Server

from cases.assistants import system_id

CREATE = "POST /threads/{thread}/runs"
WAIT = "POST /threads/{thread}/runs/wait"
RUN = "GET /threads/{thread}/runs/{run}"
X = {"items": ["x"]}


def run_rows(server: Server) -> None:
    """A run's row, new and done; lists; deletion."""
    at = {"thread": server.thread(metadata={"owner": "ada"})}
    made = server("create", CREATE, {"assistant_id": "chain", "input": X, "metadata": {"mine": 1}}, at=at)
    at["run"] = made["run_id"]
    server.settled(at["thread"])
    server("read", RUN, at=at)
    server("join", "GET /threads/{thread}/runs/{run}/join", at=at)
    server("join stream", "GET /threads/{thread}/runs/{run}/stream", at=at)
    full = {
        "assistant_id": system_id("chain"),
        "input": X,
        "config": {"tags": ["t"], "recursion_limit": 20, "configurable": {"a": 1}},
        "stream_mode": ["values", "updates"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "interrupt_before": ["third"],
        "interrupt_after": "*",
        "multitask_strategy": "rollback",
        "durability": "sync",
    }
    at["full"] = server("create with all", CREATE, full, at=at)["run_id"]
    server.settled(at["thread"])
    server("read with all", "GET /threads/{thread}/runs/{full}", at=at)
    at["failed"] = server("create a failing one", CREATE, {"assistant_id": "failing", "input": X}, at=at)["run_id"]
    server.settled(at["thread"])
    server("read the failed", "GET /threads/{thread}/runs/{failed}", at=at)
    server("join the failed", "GET /threads/{thread}/runs/{failed}/join", at=at)
    server("join stream of the failed", "GET /threads/{thread}/runs/{failed}/stream", at=at)
    runs = "GET /threads/{thread}/runs"
    server("list", runs, at=at)
    server("list one", runs, at=at, query={"limit": 1, "offset": 1})
    for status in ("success", "error", "pending", "bogus"):
        server(f"list {status}", runs, at=at, query={"status": status})
    server("list, select", runs, at=at, query={"select": ["run_id", "status"]})
    server("list, limit 0", runs, at=at, query={"limit": 0})
    server("list of an unknown thread", runs, at={"thread": NOWHERE})
    server("delete", "DELETE /threads/{thread}/runs/{run}", at=at)
    server("delete again", "DELETE /threads/{thread}/runs/{run}", at=at)
    server("read after delete", RUN, at=at)
    server("read a bad id", "GET /threads/{thread}/runs/nope", at=at)
    server("read on a wrong thread", RUN, at={"thread": NOWHERE, "run": at["full"]})
    server("join an unknown one", "GET /threads/{thread}/runs/{run}/join", at=at)
    server("join stream of an unknown one", "GET /threads/{thread}/runs/{run}/stream", at=at)


def run_refused(server: Server) -> None:
    """Requests that no run comes of."""
    at = {"thread": server.thread()}
    plain = {"assistant_id": "chain", "input": X}
    server("unknown thread", WAIT, plain, at={"thread": NOWHERE})
    server("bad thread", "POST /threads/nope/runs/wait", plain)
    server("unknown graph", WAIT, {"assistant_id": "nope", "input": X}, at=at)
    server("unknown assistant", WAIT, {"assistant_id": NOWHERE, "input": X}, at=at)
    server("no assistant", WAIT, {"input": X}, at=at)
    server("malformed", WAIT, content="{nope", at=at)
    server("empty", WAIT, content="", at=at)
    server("a list", WAIT, [], at=at)
    wrong: dict[str, object] = {
        "multitask_strategy": "bogus",
        "on_disconnect": "bogus",
        "if_not_exists": "bogus",
        "durability": "bogus",
        "interrupt_before": 5,
        "config": "x",
        "context": "x",
        "metadata": "x",
        "command": "x",
        "after_seconds": -1,
        "checkpoint": "x",
        "checkpoint_id": 5,
        "webhook": "",
        "stream_mode": 5,
    }
    for name, value in wrong.items():
        server(f"{name} {value!r}", WAIT, plain | {name: value}, at={"thread": server.thread()})
    hooks = ("http://127.0.0.1/hook", "https://localhost/hook", "ftp://example.com", "nope", "https://10.0.0.1/hook")
    for address in hooks:
        server(f"webhook {address}", WAIT, plain | {"webhook": address}, at={"thread": server.thread()})
    both = {"config": {"configurable": {"a": 1}}, "context": {"b": 2}}
    server("configurable and context", WAIT, plain | both, at={"thread": server.thread()})
    server("unknown field", WAIT, plain | {"colour": "red"}, at={"thread": server.thread()})
    server("recursion limit 0", WAIT, plain | {"config": {"recursion_limit": 0}}, at={"thread": server.thread()})
    server("recursion limit text", WAIT, plain | {"config": {"recursion_limit": "x"}}, at={"thread": server.thread()})
    server("feedback keys", WAIT, plain | {"feedback_keys": ["score"]}, at={"thread": server.thread()})
    server(
        "unknown checkpoint", WAIT, {"assistant_id": "chain", "checkpoint_id": NOWHERE}, at={"thread": server.thread()}
    )
    server("resume without thread", "POST /runs/wait", {"assistant_id": "asking", "command": {"resume": 1}})
    server(
        "resume what does not wait",
        WAIT,
        {"assistant_id": "chain", "command": {"resume": 1}},
        at={"thread": server.thread()},
    )


def run_wait(server: Server) -> None:
    """What `wait` answers with, for each graph and mode."""
    for graph in ("chain", "asking", "two_questions", "failing", "failing_privately", "parent", "configured"):
        server(graph, WAIT, {"assistant_id": graph, "input": X}, at={"thread": server.thread()})
        server(f"{graph} without thread", "POST /runs/wait", {"assistant_id": graph, "input": X})
    for mode in ("updates", "messages-tuple", "custom", "debug"):
        asked = {"assistant_id": "writing", "input": X, "stream_mode": mode}
        server(f"in {mode}", WAIT, asked, at={"thread": server.thread()})
        server(f"in {mode} without thread", "POST /runs/wait", asked)
    at = {"thread": server.thread()}
    greeting = {"assistant_id": "configured", "input": X}
    server("with context", WAIT, greeting | {"context": {"greeting": "good day"}}, at=at)
    server("with configurable", WAIT, greeting | {"config": {"configurable": {"greeting": "good day"}}}, at=at)
    server("with unknown context", WAIT, greeting | {"context": {"zz": 1}}, at=at)
    server("thread after context", "GET /threads/{thread}", at=at)
    server("runs after context", "GET /threads/{thread}/runs", at=at)
    server("state after context", "GET /threads/{thread}/state", at=at)
    limited = {"assistant_id": "looping", "input": X, "config": {"recursion_limit": 3}}
    server("too many steps", WAIT, limited, at={"thread": server.thread()})
    nul = {"assistant_id": "chain", "input": {"items": ["a\x00b"]}}
    server("a NUL", WAIT, nul, at={"thread": server.thread()})
    server("NaN", WAIT, content='{"assistant_id":"chain","input":{"items":[NaN]}}', at={"thread": server.thread()})


def run_context(server: Server) -> None:
    """What a graph sees of a context, with and without a schema."""
    given: dict[str, dict[str, object]] = {
        "nothing": {},
        "empty": {"context": {}},
        "a name": {"context": {"name": "Ada"}},
        "a configurable name": {"config": {"configurable": {"name": "Ada"}}},
        "more": {"context": {"name": "Ada", "zz": 1}},
        "other": {"context": {"zz": 1}},
    }
    for graph in ("configured", "configured_strictly", "unconfigured"):
        for name, asked in given.items():
            server(
                f"{graph}, {name}", WAIT, {"assistant_id": graph, "input": X} | asked, at={"thread": server.thread()}
            )


def run_metadata(server: Server) -> None:
    """Whose metadata goes where."""
    assistant = server(
        "assistant",
        "POST /assistants",
        {"graph_id": "chain", "metadata": {"from": "assistant", "a": 1}, "config": {"configurable": {"c": 1}}},
    )["assistant_id"]
    at = {"thread": server("thread", "POST /threads", {"metadata": {"from": "thread", "t": 1}})["thread_id"]}
    asked = {
        "assistant_id": assistant,
        "input": X,
        "metadata": {"from": "run", "r": 1, "thread_id": "mine", "run_id": "mine"},
        "config": {"configurable": {"d": 2, "thread_id": "mine"}, "metadata": {"from": "config", "m": 1}},
    }
    at["run"] = server("create", CREATE, asked, at=at)["run_id"]
    server.settled(at["thread"])
    server("run", RUN, at=at)
    server("thread after", "GET /threads/{thread}", at=at)
    server("state after", "GET /threads/{thread}/state", at=at)


def run_commands(server: Server) -> None:
    """Commands: update and goto."""
    at = {"thread": server.thread()}
    server.run(at["thread"], assistant_id="chain", input=X)
    commands: dict[str, object] = {
        "goto": {"goto": "third"},
        "goto several": {"goto": ["second", "third"]},
        "send": {"goto": {"node": "second", "input": {"items": ["sent"]}}},
        "update": {"update": {"items": ["updated"]}},
        "update and goto": {"update": {"items": ["updated"]}, "goto": "third"},
        "update in pairs": {"update": [["items", ["paired"]]]},
        "goto nowhere": {"goto": "nowhere"},
        "empty": {},
    }
    for name, command in commands.items():
        asked = {"assistant_id": "chain", "command": command, "stream_mode": ["values", "updates"]}
        server(name, "POST /threads/{thread}/runs/stream", asked, at=at)
    server("state", "GET /threads/{thread}/state", at=at)


def run_forks(server: Server) -> None:
    """Runs from an older checkpoint."""
    at = {"thread": server.thread()}
    server.run(at["thread"], assistant_id="chain", input=X)
    past = server("history", "POST /threads/{thread}/history", {"limit": 10}, at=at)
    older = past[2]["checkpoint"]
    stream = "POST /threads/{thread}/runs/stream"
    server("again by id", stream, {"assistant_id": "chain", "checkpoint_id": older["checkpoint_id"]}, at=at)
    server("again by checkpoint", stream, {"assistant_id": "chain", "checkpoint": older}, at=at)
    server("other input", stream, {"assistant_id": "chain", "input": {"items": ["y"]}, "checkpoint": older}, at=at)
    server("state", "GET /threads/{thread}/state", at=at)
    server("history after", "POST /threads/{thread}/history", {"limit": 20}, at=at)
    server("runs after", "GET /threads/{thread}/runs", at=at)


def run_durability(server: Server) -> None:
    """How many checkpoints stay."""
    for asked in ({"durability": "exit"}, {"durability": "sync"}, {"checkpoint_during": False}):
        at = {"thread": server.thread()}
        name = " ".join(str(part) for item in asked.items() for part in item)
        server(name, WAIT, {"assistant_id": "chain", "input": X, **asked}, at=at)
        server(f"{name}, history", "POST /threads/{thread}/history", {"limit": 10}, at=at)
        server(f"{name}, runs", "GET /threads/{thread}/runs", at=at)


def run_new_threads(server: Server) -> None:
    """Runs that make their thread."""
    at = {"thread": "5ba7b810-9dad-41d1-80b4-00c04fd43778"}
    asked = {"assistant_id": "chain", "input": X, "if_not_exists": "create", "metadata": {"mine": 1}}
    server("create", WAIT, asked, at=at)
    server("thread", "GET /threads/{thread}", at=at)
    server("again", WAIT, asked, at=at)


def run_without_thread(server: Server) -> None:
    """Background runs without a thread, kept or not, alone or many."""
    made = server("create", "POST /runs", {"assistant_id": "chain", "input": X, "metadata": {"mine": 1}})
    server.until(f"/threads/{made['thread_id']}/runs/{made['run_id']}", "success")
    server("thread after", "GET /threads/{thread}", at={"thread": made["thread_id"]})
    keep = {"assistant_id": "chain", "input": X, "on_completion": "keep"}
    kept = server("create, keep", "POST /runs", keep)
    at = {"thread": kept["thread_id"], "run": kept["run_id"]}
    server.until(f"/threads/{at['thread']}/runs/{at['run']}", "success")
    server("kept run", RUN, at=at)
    server("kept thread", "GET /threads/{thread}", at=at)
    server("wait, keep", "POST /runs/wait", keep)
    server("stream, keep", "POST /runs/stream", keep)
    server("bogus on_completion", "POST /runs", keep | {"on_completion": "bogus"})
    server("batch", "POST /runs/batch", [keep, {"assistant_id": "failing", "input": X}])
    server("empty batch", "POST /runs/batch", [])
    server("batch of a wrong one", "POST /runs/batch", [keep, {"assistant_id": "nope"}])
    server("batch that is no list", "POST /runs/batch", {})


CASES = (
    run_rows,
    run_refused,
    run_wait,
    run_context,
    run_metadata,
    run_commands,
    run_forks,
    run_durability,
    run_new_threads,
    run_without_thread,
)
