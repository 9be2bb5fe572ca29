"""Assistants: rows, versions, and what their graphs look like."""

import uuid

from naming import NAMESPACE
from recording import NOWHERE, Server


def system_id(graph: str) -> str:
    """The id of a graph's own assistant."""
    return str(uuid.uuid5(NAMESPACE, graph))


def assistant_rows(server: Server) -> None:
    """Create, read, change, delete."""
    made = server(
        "create",
        "POST /assistants",
        {
            "graph_id": "chain",
            "config": {"configurable": {"tone": "dry"}, "tags": ["a"], "recursion_limit": 9},
            "metadata": {"case": "rows", "owner": "ada"},
            "name": "Ada's",
            "description": "first",
        },
    )
    at = {"id": made["assistant_id"]}
    server("create with only a graph", "POST /assistants", {"graph_id": "chain"})
    server("create with context", "POST /assistants", {"graph_id": "configured", "context": {"greeting": "hi"}})
    server(
        "create with context and configurable",
        "POST /assistants",
        {"graph_id": "configured", "context": {"greeting": "hi"}, "config": {"configurable": {"greeting": "ho"}}},
    )
    again = {"graph_id": "chain", "assistant_id": at["id"]}
    server("create again", "POST /assistants", again)
    server("create again, do nothing", "POST /assistants", again | {"if_exists": "do_nothing"})
    server("create again, bogus", "POST /assistants", again | {"if_exists": "bogus"})
    server("create of an unknown graph", "POST /assistants", {"graph_id": "nope"})
    server("create without a graph", "POST /assistants", {})
    server("create with a bad id", "POST /assistants", {"graph_id": "chain", "assistant_id": "nope"})
    server("create with an unknown field", "POST /assistants", {"graph_id": "chain", "colour": "red"})
    server("read", "GET /assistants/{id}", at=at)
    server("read a graph's own", "GET /assistants/{id}", at={"id": system_id("chain")})
    server("read by a graph's name", "GET /assistants/chain")
    server("read an unknown one", "GET /assistants/{id}", at={"id": NOWHERE})
    server("change", "PATCH /assistants/{id}", {"metadata": {"more": 1}, "name": "Ada's own"}, at=at)
    server("change the config", "PATCH /assistants/{id}", {"config": {"configurable": {"tone": "wry"}}}, at=at)
    server("change the context", "PATCH /assistants/{id}", {"context": {"tone": "warm"}}, at=at)
    server("change the graph", "PATCH /assistants/{id}", {"graph_id": "configured"}, at=at)
    server("change to an unknown graph", "PATCH /assistants/{id}", {"graph_id": "nope"}, at=at)
    server("change an unknown one", "PATCH /assistants/{id}", {"name": "x"}, at={"id": NOWHERE})
    server("change nothing", "PATCH /assistants/{id}", {}, at=at)
    server("delete", "DELETE /assistants/{id}", at=at)
    server("delete again", "DELETE /assistants/{id}", at=at)
    server("read after delete", "GET /assistants/{id}", at=at)


def assistant_versions(server: Server) -> None:
    """Every change is a version; an old one can be made the current one."""
    made = server("create", "POST /assistants", {"graph_id": "chain", "config": {"configurable": {"n": 1}}})
    at = {"id": made["assistant_id"]}
    server("second", "PATCH /assistants/{id}", {"config": {"configurable": {"n": 2}}, "name": "two"}, at=at)
    server("third", "PATCH /assistants/{id}", {"metadata": {"n": 3}, "description": "three"}, at=at)
    server("list", "POST /assistants/{id}/versions", {}, at=at)
    server("list one", "POST /assistants/{id}/versions", {"limit": 1, "offset": 1}, at=at)
    server("list by metadata", "POST /assistants/{id}/versions", {"metadata": {"n": 3}}, at=at)
    server("list of an unknown one", "POST /assistants/{id}/versions", {}, at={"id": NOWHERE})
    server("go back", "POST /assistants/{id}/latest", {"version": 1}, at=at)
    server("read after going back", "GET /assistants/{id}", at=at)
    server("change after going back", "PATCH /assistants/{id}", {"name": "four"}, at=at)
    server("go to an unknown version", "POST /assistants/{id}/latest", {"version": 99}, at=at)
    server("go without a version", "POST /assistants/{id}/latest", {}, at=at)
    server("go, of an unknown one", "POST /assistants/{id}/latest", {"version": 1}, at={"id": NOWHERE})
    server("versions of a graph's own", "POST /assistants/{id}/versions", {}, at={"id": system_id("parent")})


def assistant_search(server: Server) -> None:
    """Search, count, pages."""
    mark = {"case": "search"}
    for name in ("alpha", "beta", "gamma"):
        server(f"create {name}", "POST /assistants", {"graph_id": "writing", "name": name, "metadata": mark})
    search = "POST /assistants/search"
    server("by metadata", search, {"metadata": mark})
    server("by name", search, {"metadata": mark, "name": "ALPH"})
    server("by graph", search, {"graph_id": "counter"})
    server("of an unknown graph", search, {"graph_id": "nope"})
    server("first page", search, {"metadata": mark, "limit": 2})
    server("last page", search, {"metadata": mark, "limit": 2, "offset": 2})
    for order in ("asc", "desc"):
        server(f"by name {order}", search, {"metadata": mark, "sort_by": "name", "sort_order": order})
    server("select", search, {"metadata": mark, "select": ["name", "version"]})
    server("select bogus", search, {"metadata": mark, "select": ["bogus"]})
    server("sort by bogus", search, {"sort_by": "bogus"})
    server("limit 0", search, {"limit": 0})
    server("limit 1001", search, {"limit": 1001})
    server("offset -1", search, {"offset": -1})
    server(
        "systems", search, {"metadata": {"created_by": "system"}, "limit": 2, "sort_by": "name", "sort_order": "asc"}
    )
    server("count", "POST /assistants/count", {"metadata": mark})
    server("count by name", "POST /assistants/count", {"metadata": mark, "name": "et"})
    server("count by graph", "POST /assistants/count", {"graph_id": "counter"})


def assistant_graphs(server: Server) -> None:
    """Drawings and schemas."""
    for graph in ("chain", "parent", "counter", "configured", "speaking"):
        at = {"id": system_id(graph)}
        server(f"graph of {graph}", "GET /assistants/{id}/graph", at=at)
        server(f"schemas of {graph}", "GET /assistants/{id}/schemas", at=at)
        server(f"subgraphs of {graph}", "GET /assistants/{id}/subgraphs", at=at)
    at = {"id": system_id("parent")}
    server("inside", "GET /assistants/{id}/graph", at=at, query={"xray": "true"})
    server("inside by one", "GET /assistants/{id}/graph", at=at, query={"xray": "1"})
    server("xray 0", "GET /assistants/{id}/graph", at=at, query={"xray": "0"})
    server("xray bogus", "GET /assistants/{id}/graph", at=at, query={"xray": "bogus"})
    server("recurse", "GET /assistants/{id}/subgraphs", at=at, query={"recurse": "true"})
    server("by namespace", "GET /assistants/{id}/subgraphs/child", at=at)
    server("by an unknown namespace", "GET /assistants/{id}/subgraphs/nope", at=at)
    server("graph by name", "GET /assistants/parent/graph")
    server("schemas by name", "GET /assistants/parent/schemas")
    server("subgraphs by name", "GET /assistants/parent/subgraphs")
    server("graph of an unknown one", "GET /assistants/{id}/graph", at={"id": NOWHERE})
    server("schemas of an unknown one", "GET /assistants/{id}/schemas", at={"id": NOWHERE})


CASES = (assistant_rows, assistant_versions, assistant_search, assistant_graphs)
