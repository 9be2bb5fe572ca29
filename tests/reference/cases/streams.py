"""Streams: the events of runs, in every mode, in their order."""

from recording import Server

MODES = ("values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events")
STREAM = "POST /threads/{thread}/runs/stream"
TALK = {"messages": [{"role": "user", "content": "hi", "id": "m1"}]}


def _each(server: Server, graph: str, given: object, modes: tuple[str, ...] = MODES) -> None:
    for mode in modes:
        at = {"thread": server.thread()}
        asked = {"assistant_id": graph, "input": given, "stream_mode": mode}
        server(f"{graph} in {mode}", STREAM, asked, at=at)


def stream_chain(server: Server) -> None:
    """A plain graph in each mode."""
    _each(server, "chain", {"items": ["x"]})


def stream_speaking(server: Server) -> None:
    """A model's tokens in each mode."""
    _each(server, "speaking", TALK)


def stream_writing(server: Server) -> None:
    """What a node writes itself."""
    _each(server, "writing", {"items": ["x"]}, ("custom", "updates"))


def stream_function(server: Server) -> None:
    """A functional entrypoint."""
    _each(server, "counter", 2, ("values", "updates", "tasks", "checkpoints", "debug"))


def stream_interrupts(server: Server) -> None:
    """Questions, in each mode where they show."""
    modes = ("values", "updates", "tasks", "checkpoints", "debug", "messages-tuple")
    _each(server, "asking", {"items": ["x"]}, modes)
    _each(server, "two_questions", {"items": ["x"]}, ("values", "updates"))


def stream_failures(server: Server) -> None:
    """How a stream tells of a failure."""
    modes = ("values", "updates", "tasks", "checkpoints", "debug", "events")
    _each(server, "failing", {"items": ["x"]}, modes)
    _each(server, "failing_privately", {"items": ["x"]}, ("values",))
    at = {"thread": server.thread()}
    limited = {"assistant_id": "looping", "input": {"items": []}, "config": {"recursion_limit": 3}}
    server("too many steps", STREAM, limited, at=at)
    server("too many steps, thread", "GET /threads/{thread}", at=at)
    server("no input", STREAM, {"assistant_id": "chain"}, at={"thread": server.thread()})
    server("input of a wrong type", STREAM, {"assistant_id": "chain", "input": "x"}, at={"thread": server.thread()})


def stream_subgraphs(server: Server) -> None:
    """A subgraph's events, with and without."""
    for mode in ("values", "updates", "tasks", "debug", "checkpoints", "events"):
        asked = {"assistant_id": "parent", "input": {"items": ["x"]}, "stream_mode": mode}
        for inner in (True, False):
            name = f"{mode}, {'with' if inner else 'without'} subgraphs"
            server(name, STREAM, asked | {"stream_subgraphs": inner}, at={"thread": server.thread()})
    asking = {"assistant_id": "asking_parent", "input": {"items": ["x"]}, "stream_subgraphs": True}
    server("a question inside", STREAM, asking | {"stream_mode": ["values", "updates"]}, at={"thread": server.thread()})


def stream_combined(server: Server) -> None:
    """Several modes at once, and what is no mode."""
    combined: list[list[str]] = [
        ["values", "updates"],
        ["updates", "values"],
        ["values", "messages"],
        ["values", "messages-tuple", "custom"],
        ["messages", "messages-tuple"],
        ["tasks", "checkpoints", "debug"],
        ["updates", "events"],
        [],
    ]
    for modes in combined:
        asked = {"assistant_id": "speaking", "input": TALK, "stream_mode": modes}
        server(" and ".join(modes) or "none", STREAM, asked, at={"thread": server.thread()})
    for mode in ("bogus", "tools", "lifecycle"):
        asked = {"assistant_id": "chain", "input": {"items": []}, "stream_mode": [mode]}
        server(mode, STREAM, asked, at={"thread": server.thread()})


def stream_without_thread(server: Server) -> None:
    """Stateless streams."""
    for mode in ("values", "updates", "messages", "messages-tuple", "tasks", "checkpoints", "debug"):
        asked = {"assistant_id": "speaking", "input": TALK, "stream_mode": mode}
        server(mode, "POST /runs/stream", asked)
    server("a question", "POST /runs/stream", {"assistant_id": "asking", "input": {"items": ["x"]}})
    server("a failure", "POST /runs/stream", {"assistant_id": "failing", "input": {"items": ["x"]}})


def stream_breakpoints(server: Server) -> None:
    """Stops before and after nodes, seen in streams."""
    for field in ("interrupt_before", "interrupt_after"):
        for nodes in (["second"], "*", ["nowhere"]):
            at = {"thread": server.thread()}
            asked = {"assistant_id": "chain", "input": {"items": ["x"]}, "stream_mode": ["values", "updates"]}
            server(f"{field} {nodes}", STREAM, asked | {field: nodes}, at=at)
            server(f"{field} {nodes}, thread", "GET /threads/{thread}", at=at)
            server(f"{field} {nodes}, go on", STREAM, {"assistant_id": "chain", "stream_mode": "updates"}, at=at)


CASES = (
    stream_chain,
    stream_speaking,
    stream_writing,
    stream_function,
    stream_interrupts,
    stream_failures,
    stream_subgraphs,
    stream_combined,
    stream_without_thread,
    stream_breakpoints,
)
