"""Multitask strategies: a second run on a busy thread."""

from recording import Server

CREATE = "POST /threads/{thread}/runs"
SLOW = {"items": ["slow"], "seconds": 2}
NEXT = {"items": ["next"], "seconds": 0}


def _second(server: Server, strategy: str) -> None:
    at = {"thread": server.thread()}
    at["first"] = server.start(at["thread"], assistant_id="slow", input=SLOW)
    server.entered(at["thread"], at["first"])
    server("thread while busy", "GET /threads/{thread}", at=at)
    server("state while busy", "GET /threads/{thread}/state", at=at)
    asked = {"assistant_id": "slow", "input": NEXT, "multitask_strategy": strategy}
    made = server("second", CREATE, asked, at=at)
    server("update while busy", "POST /threads/{thread}/state", {"values": {"items": ["u"]}}, at=at)
    server.settled(at["thread"])
    server("first, in the end", "GET /threads/{thread}/runs/{first}", at=at)
    if "status" in made:
        server("second, in the end", "GET /threads/{thread}/runs/{second}", at=at | {"second": made["run_id"]})
    server("thread, in the end", "GET /threads/{thread}", at=at)
    server("state, in the end", "GET /threads/{thread}/state", at=at)
    server("history, in the end", "POST /threads/{thread}/history", {"limit": 20}, at=at)


def second_rejected(server: Server) -> None:
    """`reject`."""
    _second(server, "reject")


def second_enqueued(server: Server) -> None:
    """`enqueue`."""
    _second(server, "enqueue")


def second_interrupts(server: Server) -> None:
    """`interrupt`."""
    _second(server, "interrupt")


def second_rolls_back(server: Server) -> None:
    """`rollback`."""
    _second(server, "rollback")


def second_waits(server: Server) -> None:
    """`wait` and `stream` on a busy thread answer when their turn has come."""
    for ending in ("wait", "stream"):
        at = {"thread": server.thread()}
        first = server.start(at["thread"], assistant_id="slow", input=SLOW | {"seconds": 1})
        server.entered(at["thread"], first)
        server(ending, f"POST /threads/{{thread}}/runs/{ending}", {"assistant_id": "slow", "input": NEXT}, at=at)


CASES = (second_rejected, second_enqueued, second_interrupts, second_rolls_back, second_waits)
