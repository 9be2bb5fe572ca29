"""Interrupts: questions, answers, and what a thread says in between."""

from recording import Server

STREAM = "POST /threads/{thread}/runs/stream"
WAIT = "POST /threads/{thread}/runs/wait"
X = {"items": ["x"]}
MODES = ["values", "updates"]


def resume_one(server: Server) -> None:
    """One question, answered."""
    at = {"thread": server.thread()}
    server("ask", STREAM, {"assistant_id": "asking", "input": X, "stream_mode": MODES}, at=at)
    server("state", "GET /threads/{thread}/state", at=at)
    server("thread", "GET /threads/{thread}", at=at)
    server("runs", "GET /threads/{thread}/runs", at=at)
    both = {"assistant_id": "asking", "input": {}, "command": {"resume": "blue"}, "stream_mode": MODES}
    server("answer", STREAM, both, at=at)
    server("state after", "GET /threads/{thread}/state", at=at)
    server("history after", "POST /threads/{thread}/history", {"limit": 10}, at=at)


def resume_two(server: Server) -> None:
    """Two questions at once, answered by id, in one go and one by one."""
    at = {"thread": server.thread()}
    server("ask", WAIT, {"assistant_id": "two_questions", "input": X}, at=at)
    waiting = server("state", "GET /threads/{thread}/state", at=at)["interrupts"]
    server("answer without ids", WAIT, {"assistant_id": "two_questions", "command": {"resume": "a"}}, at=at)
    one = {"resume": {waiting[0]["id"]: "a"}}
    server("answer one", WAIT, {"assistant_id": "two_questions", "command": one}, at=at)
    server("thread after one", "GET /threads/{thread}", at=at)
    server("state after one", "GET /threads/{thread}/state", at=at)
    two = {"resume": {waiting[1]["id"]: "b"}}
    server("answer the other", WAIT, {"assistant_id": "two_questions", "command": two}, at=at)
    at = {"thread": server.thread()}
    server("ask again", WAIT, {"assistant_id": "two_questions", "input": X}, at=at)
    waiting = server("state again", "GET /threads/{thread}/state", at=at)["interrupts"]
    both = {"resume": {item["id"]: place for place, item in enumerate(waiting)}}
    server("answer both", STREAM, {"assistant_id": "two_questions", "command": both, "stream_mode": MODES}, at=at)


def resume_with_more(server: Server) -> None:
    """An answer together with an update or a jump; new input in place of an answer."""
    for name, command in {"update": {"update": {"items": ["u"]}}, "goto": {"goto": "third"}}.items():
        at = {"thread": server.thread()}
        server.run(at["thread"], assistant_id="asking", input=X)
        asked = {"assistant_id": "asking", "command": {"resume": "blue"} | command, "stream_mode": MODES}
        server(f"answer and {name}", STREAM, asked, at=at)
        server(f"answer and {name}, thread", "GET /threads/{thread}", at=at)
    at = {"thread": server.thread()}
    server.run(at["thread"], assistant_id="asking", input=X)
    server("new input", STREAM, {"assistant_id": "asking", "input": {"items": ["y"]}, "stream_mode": MODES}, at=at)
    server("new input, state", "GET /threads/{thread}/state", at=at)
    server("null answer", STREAM, {"assistant_id": "asking", "command": {"resume": None}, "stream_mode": MODES}, at=at)


def resume_subgraph(server: Server) -> None:
    """A question inside a subgraph."""
    at = {"thread": server.thread()}
    asked = {"assistant_id": "asking_parent", "stream_mode": MODES, "stream_subgraphs": True}
    server("ask", STREAM, asked | {"input": X}, at=at)
    server("thread", "GET /threads/{thread}", at=at)
    server("answer", STREAM, asked | {"command": {"resume": "blue"}}, at=at)


def background_question(server: Server) -> None:
    """A question in a background run, joined later."""
    at = {"thread": server.thread()}
    at["run"] = server.start(at["thread"], assistant_id="asking", input=X)
    server.settled(at["thread"])
    server("run", "GET /threads/{thread}/runs/{run}", at=at)
    server("join", "GET /threads/{thread}/runs/{run}/join", at=at)


CASES = (resume_one, resume_two, resume_with_more, resume_subgraph, background_question)
