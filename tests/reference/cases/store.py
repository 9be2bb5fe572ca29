"""Store: items and their namespaces."""

from recording import Server

ITEMS = "/store/items"
SEARCH = "POST /store/items/search"
SPACES = "POST /store/namespaces"


def store_items(server: Server) -> None:
    """Put, get, search, delete."""
    space = ["compare", "items"]
    for number, name in enumerate(("a", "b", "c")):
        item = {"namespace": space, "key": name, "value": {"n": number, "name": name, "deep": {"x": number}}}
        server(f"put {name}", f"PUT {ITEMS}", item)
    server("put again", f"PUT {ITEMS}", {"namespace": space, "key": "a", "value": {"n": 0, "again": True}})
    server("get", f"GET {ITEMS}", query={"namespace": "compare.items", "key": "a"})
    server("get an unknown key", f"GET {ITEMS}", query={"namespace": "compare.items", "key": "zz"})
    server("get without a key", f"GET {ITEMS}", query={"namespace": "compare.items"})
    server("get without a namespace", f"GET {ITEMS}", query={"key": "a"})
    prefix = {"namespace_prefix": space}
    server("search", SEARCH, prefix)
    server("search with an upper prefix", SEARCH, {"namespace_prefix": ["compare"]})
    server("search one", SEARCH, prefix | {"limit": 1, "offset": 1})
    filters: dict[str, object] = {
        "equal": {"n": 1},
        "$eq": {"n": {"$eq": 1}},
        "$ne": {"n": {"$ne": 1}},
        "$gt": {"n": {"$gt": 0}},
        "$gte": {"n": {"$gte": 1}},
        "$lt": {"n": {"$lt": 1}},
        "$lte": {"n": {"$lte": 1}},
        "deep": {"deep": {"x": 2}},
        "bogus operator": {"n": {"$bogus": 1}},
        "unknown field": {"zz": 1},
    }
    for name, given in filters.items():
        server(f"filter {name}", SEARCH, prefix | {"filter": given})
    server("query", SEARCH, prefix | {"query": "anything"})
    server("search everywhere unknown", SEARCH, {"namespace_prefix": ["compare-nowhere"]})
    server("search without a prefix", SEARCH, {})
    server("limit 0", SEARCH, prefix | {"limit": 0})
    server("delete", f"DELETE {ITEMS}", {"namespace": space, "key": "a"})
    server("delete again", f"DELETE {ITEMS}", {"namespace": space, "key": "a"})
    server("delete without a key", f"DELETE {ITEMS}", {"namespace": space})
    server("get after delete", f"GET {ITEMS}", query={"namespace": "compare.items", "key": "a"})


def store_refused(server: Server) -> None:
    """Items that can't be."""
    wrong: dict[str, object] = {
        "a dot": {"namespace": ["a.b"], "key": "k", "value": {}},
        "an empty label": {"namespace": ["a", ""], "key": "k", "value": {}},
        "no label": {"namespace": [], "key": "k", "value": {}},
        "the root": {"namespace": ["langgraph", "x"], "key": "k", "value": {}},
        "no key": {"namespace": ["a"], "value": {}},
        "an empty key": {"namespace": ["compare", "refused"], "key": "", "value": {}},
        "no value": {"namespace": ["a"], "key": "k"},
        "a list": {"namespace": ["a"], "key": "k", "value": [1]},
        "a label that is no text": {"namespace": [1], "key": "k", "value": {}},
    }
    for name, body in wrong.items():
        server(name, f"PUT {ITEMS}", body)


def store_namespaces(server: Server) -> None:
    """Listing namespaces."""
    for labels in (["spaces", "a", "x"], ["spaces", "a", "y"], ["spaces", "b", "x"]):
        server(f"put in {labels}", f"PUT {ITEMS}", {"namespace": labels, "key": "k", "value": {}})
    prefix = {"prefix": ["spaces"]}
    server("by prefix", SPACES, prefix)
    server("by suffix", SPACES, prefix | {"suffix": ["x"]})
    server("to a depth", SPACES, prefix | {"max_depth": 2})
    server("first page", SPACES, prefix | {"limit": 2})
    server("last page", SPACES, prefix | {"limit": 2, "offset": 2})
    server("by a wildcard", SPACES, {"prefix": ["spaces", "*", "x"]})
    server("by nothing that is", SPACES, {"prefix": ["nowhere"]})


CASES = (store_items, store_refused, store_namespaces)
