"""Lifecycle: runs that are joined, stopped, delayed, deleted."""

from recording import NOWHERE, Server

RUN = "GET /threads/{thread}/runs/{run}"
CANCEL = "POST /threads/{thread}/runs/{run}/cancel"
JOIN = "GET /threads/{thread}/runs/{run}/join"
JOIN_STREAM = "GET /threads/{thread}/runs/{run}/stream"
SLOW = {"items": ["slow"], "seconds": 3}


def _slow(server: Server, **more: object) -> dict[str, str]:
    at = {"thread": server.thread()}
    at["run"] = server.start(at["thread"], assistant_id="slow", input=SLOW, **more)
    server.entered(at["thread"], at["run"])
    return at


def cancel_one(server: Server) -> None:
    """Cancelling a running run, with each action, waiting or not."""
    for action in ("interrupt", "rollback"):
        for wait in ("0", "1"):
            at = _slow(server)
            name = f"{action}, wait {wait}"
            server(name, CANCEL, at=at, query={"action": action, "wait": wait})
            server.ended(at["thread"], at["run"])
            server(f"{name}: run", RUN, at=at)
            server(f"{name}: thread", "GET /threads/{thread}", at=at)
            server(f"{name}: state", "GET /threads/{thread}/state", at=at)
            server(f"{name}: join", JOIN, at=at)
            server(f"{name}: again", CANCEL, at=at)
    server("unknown", CANCEL, at={"thread": server.thread(), "run": NOWHERE})
    server("bad id", CANCEL, at={"thread": server.thread(), "run": "nope"})
    server("bogus action", CANCEL, at={"thread": NOWHERE, "run": NOWHERE}, query={"action": "bogus"})


def cancelled_and_gone_on(server: Server) -> None:
    """A cancelled run's thread goes on where it stood."""
    at = _slow(server)
    server("cancel", CANCEL, at=at, query={"wait": "true"})
    server.settled(at["thread"])
    server("go on", "POST /threads/{thread}/runs/stream", {"assistant_id": "slow", "stream_mode": "updates"}, at=at)
    server("thread", "GET /threads/{thread}", at=at)


def cancel_several(server: Server) -> None:
    """Cancelling by ids."""
    at = _slow(server)
    at["next"] = server.start(at["thread"], assistant_id="slow", input={"items": ["next"], "seconds": 0})
    cancel = "POST /runs/cancel"
    server("by ids", cancel, {"thread_id": at["thread"], "run_ids": [at["run"], at["next"]]})
    server.settled(at["thread"])
    server("running one", RUN, at=at)
    server("pending one", "GET /threads/{thread}/runs/{next}", at=at)
    server("thread", "GET /threads/{thread}", at=at)
    server("by unknown ids", cancel, {"thread_id": at["thread"], "run_ids": [NOWHERE]})
    server("by nothing", cancel, {})
    server("by a bogus status", cancel, {"status": "bogus"})
    server("by both", cancel, {"status": "all", "thread_id": at["thread"], "run_ids": [at["run"]]})


def cancel_all(server: Server) -> None:
    """Cancelling by status reaches every run there is."""
    at = _slow(server)
    at["next"] = server.start(at["thread"], assistant_id="slow", input={"items": ["next"], "seconds": 0})
    server("pending", "POST /runs/cancel", {"status": "pending"})
    server("pending one", "GET /threads/{thread}/runs/{next}", at=at)
    server("running", "POST /runs/cancel", {"status": "running"})
    server.settled(at["thread"])
    server("running one", RUN, at=at)
    server("nothing left", "POST /runs/cancel", {"status": "all"})


def join_running(server: Server) -> None:
    """Joining a run that goes on."""
    at = _slow(server)
    server("join", JOIN, at=at)
    at = _slow(server, stream_mode=["values", "updates"])
    server("join stream", JOIN_STREAM, at=at)
    at = _slow(server, stream_mode=["values", "updates"])
    server("join stream, one mode", JOIN_STREAM, at=at, query={"stream_mode": "updates"})
    server("join stream, after the end", JOIN_STREAM, at=at)


def join_resumable(server: Server) -> None:
    """A resumable stream, read while it goes on, after its end, and from the middle."""
    more = {"stream_resumable": True, "stream_mode": ["values", "updates"]}
    at = _slow(server, **more)
    server("running, from the start", JOIN_STREAM, at=at, headers={"last-event-id": "-1"})
    server("done, without id", JOIN_STREAM, at=at)
    events = server("done, from the start", JOIN_STREAM, at=at, headers={"last-event-id": "-1"})
    server("done, from 0", JOIN_STREAM, at=at, headers={"last-event-id": "0"})
    server("done, from the middle", JOIN_STREAM, at=at, headers={"last-event-id": events[2]["id"]})
    updates = {"stream_mode": "updates"}
    server("done, one mode", JOIN_STREAM, at=at, headers={"last-event-id": "-1"}, query=updates)
    server("bad id", JOIN_STREAM, at=at, headers={"last-event-id": "nope"})
    at = {"thread": server.thread()}
    asked = {"assistant_id": "chain", "input": {"items": ["x"]}, "stream_resumable": True}
    server("first reader", "POST /threads/{thread}/runs/stream", asked, at=at)


def delayed(server: Server) -> None:
    """Runs that start later."""
    at = {"thread": server.thread()}
    asked = {"assistant_id": "chain", "input": {"items": ["x"]}, "after_seconds": 60}
    at["run"] = server("create", "POST /threads/{thread}/runs", asked, at=at)["run_id"]
    server("run", RUN, at=at)
    server("thread", "GET /threads/{thread}", at=at)
    server("cancel", CANCEL, at=at, query={"wait": "true"})
    server("run after", RUN, at=at)
    server("thread after", "GET /threads/{thread}", at=at)


def delete_running(server: Server) -> None:
    """Deleting what goes on."""
    at = _slow(server)
    server("run", "DELETE /threads/{thread}/runs/{run}", at=at)
    server("run after", RUN, at=at)
    at = _slow(server)
    server("thread", "DELETE /threads/{thread}", at=at)
    server("thread after", "GET /threads/{thread}", at=at)


CASES = (
    cancel_one,
    cancelled_and_gone_on,
    cancel_several,
    join_running,
    join_resumable,
    delayed,
    delete_running,
)
