"""Threads: rows, search, copies."""

from recording import NOWHERE, Server


def thread_rows(server: Server) -> None:
    """Create, read, change, delete."""
    made = server("create", "POST /threads", {"metadata": {"owner": "ada", "deep": {"a": 1}}})
    at = {"thread": made["thread_id"]}
    server("create with nothing", "POST /threads", {})
    server("create with an id", "POST /threads", {"thread_id": "6ba7b810-9dad-41d1-80b4-00c04fd43777"})
    server("create again", "POST /threads", {"thread_id": at["thread"]})
    server("create again, do nothing", "POST /threads", {"thread_id": at["thread"], "if_exists": "do_nothing"})
    server("create, bogus if_exists", "POST /threads", {"if_exists": "bogus"})
    server("create with a bad id", "POST /threads", {"thread_id": "nope"})
    server("create with a graph", "POST /threads", {"metadata": {"graph_id": "chain"}})
    server("create with bad metadata", "POST /threads", {"metadata": "nope"})
    server("create with ttl", "POST /threads", {"ttl": {"ttl": 5, "strategy": "delete"}})
    server("malformed body", "POST /threads", content="{nope")
    server("no body", "POST /threads")
    server("read", "GET /threads/{thread}", at=at)
    server("read with ttl", "GET /threads/{thread}", at=at, query={"include": "ttl"})
    server("read a bad id", "GET /threads/nope")
    server("read an unknown one", "GET /threads/{thread}", at={"thread": NOWHERE})
    server("change", "PATCH /threads/{thread}", {"metadata": {"more": [1], "owner": "eve"}}, at=at)
    minimal = {"prefer": "return=minimal"}
    server("change briefly", "PATCH /threads/{thread}", {"metadata": {"x": None}}, at=at, headers=minimal)
    server("read after change", "GET /threads/{thread}", at=at)
    server("change an unknown one", "PATCH /threads/{thread}", {"metadata": {}}, at={"thread": NOWHERE})
    server("delete", "DELETE /threads/{thread}", at=at)
    server("delete again", "DELETE /threads/{thread}", at=at)
    server("delete a bad id", "DELETE /threads/nope")
    server("read after delete", "GET /threads/{thread}", at=at)


def thread_after_runs(server: Server) -> None:
    """What a thread's row says after each kind of end."""
    for graph in ("chain", "asking", "two_questions", "failing", "failing_privately", "asking_parent"):
        thread = server.thread(metadata={"case": "ends"})
        server.run(thread, assistant_id=graph, input={"items": ["x"]})
        server(f"after {graph}", "GET /threads/{thread}", at={"thread": thread})
    thread = server.thread()
    server.run(thread, assistant_id="counter", input=2)
    server("after counter", "GET /threads/{thread}", at={"thread": thread})
    thread = server.thread()
    server.run(thread, assistant_id="speaking", input={"messages": [{"role": "user", "content": "hi", "id": "m1"}]})
    server("after speaking", "GET /threads/{thread}", at={"thread": thread})


def thread_search(server: Server) -> None:
    """Search, count, pages, and what is picked out."""
    mark = {"case": "thread search"}
    ids = [server.thread(metadata=mark | {"n": number, "in": {"a": number}}) for number in range(3)]
    server.run(ids[0], assistant_id="chain", input={"items": [{"v": 1}]})
    server.run(ids[1], assistant_id="asking", input={"items": ["x"]})
    search, count = "POST /threads/search", "POST /threads/count"
    asked = {"metadata": mark}
    server("by metadata", search, asked)
    server("by part of metadata", search, {"metadata": mark | {"in": {"a": 2}}})
    server("by ids", search, {"ids": [ids[2], ids[0]]})
    server("by a bad id", search, {"ids": ["nope"]})
    for status in ("idle", "interrupted", "busy", "error"):
        server(f"by status {status}", search, asked | {"status": status})
        server(f"count {status}", count, asked | {"status": status})
    server("by a bogus status", search, {"status": "bogus"})
    server("first page", search, asked | {"limit": 2})
    server("last page", search, asked | {"limit": 2, "offset": 2})
    for field in ("thread_id", "status", "created_at", "updated_at", "state_updated_at"):
        server(f"sorted by {field}", search, asked | {"sort_by": field, "sort_order": "asc", "select": ["metadata"]})
    server("sorted by bogus", search, {"sort_by": "bogus"})
    server("sorted in bogus order", search, {"sort_order": "bogus"})
    server("select", search, asked | {"select": ["thread_id", "status", "values", "interrupts"]})
    server("select error", search, asked | {"select": ["error"]})
    server("select bogus", search, asked | {"select": ["bogus"]})
    paths = {"first": "values.items[0]", "last": "values.items[-1]", "none": "values.no", "n": "metadata.n"}
    server("extract", search, asked | {"extract": paths, "select": ["thread_id"]})
    server("extract from elsewhere", search, asked | {"extract": {"x": "bogus.y"}})
    server("extract too many", search, asked | {"extract": {f"a{n}": "values.items" for n in range(11)}})
    server("limit 0", search, {"limit": 0})
    server("limit 1001", search, {"limit": 1001})
    server("by values", search, {"ids": [ids[0]], "values": {"items": [{"v": 1}]}})
    server("count", count, asked)
    server("count by values", count, asked | {"values": {"items": ["first"]}})


def thread_copy(server: Server) -> None:
    """A copy has the history, and its own way from there."""
    thread = server.thread(metadata={"owner": "ada"})
    server.run(thread, assistant_id="asking", input={"items": ["x"]})
    copied = server("copy", "POST /threads/{thread}/copy", at={"thread": thread})
    at = {"thread": copied["thread_id"]}
    server("read the copy", "GET /threads/{thread}", at=at)
    server("state of the copy", "GET /threads/{thread}/state", at=at)
    server("history of the copy", "POST /threads/{thread}/history", {"limit": 10}, at=at)
    server("runs of the copy", "GET /threads/{thread}/runs", at=at)
    resumed = {"assistant_id": "asking", "command": {"resume": "y"}}
    server("resume the copy", "POST /threads/{thread}/runs/wait", resumed, at=at)
    server("the original", "GET /threads/{thread}", at={"thread": thread})
    server("copy an unknown one", "POST /threads/{thread}/copy", at={"thread": NOWHERE})


def thread_supersteps(server: Server) -> None:
    """A thread that is made with a past."""
    steps = [
        {"updates": [{"values": {"items": ["a"]}, "as_node": "__input__"}]},
        {"updates": [{"values": {"items": ["b"]}, "as_node": "first"}]},
    ]
    made = server("create", "POST /threads", {"metadata": {"graph_id": "chain"}, "supersteps": steps})
    at = {"thread": made["thread_id"]}
    server("read", "GET /threads/{thread}", at=at)
    server("history", "POST /threads/{thread}/history", {"limit": 10}, at=at)
    server("go on", "POST /threads/{thread}/runs/wait", {"assistant_id": "chain"}, at=at)
    server("create without a graph", "POST /threads", {"supersteps": steps})


def thread_prune(server: Server) -> None:
    """Many threads deleted at once."""
    ids = [server.thread(), server.thread()]
    server("prune", "POST /threads/prune", {"thread_ids": [*ids, NOWHERE], "strategy": "delete"})
    server("read after", "GET /threads/{thread}", at={"thread": ids[0]})
    server("prune nothing", "POST /threads/prune", {"thread_ids": []})
    server("prune, bogus", "POST /threads/prune", {"thread_ids": ids, "strategy": "bogus"})


CASES = (thread_rows, thread_after_runs, thread_search, thread_copy, thread_supersteps, thread_prune)
