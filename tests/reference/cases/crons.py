"""Crons: rows alone; none comes due while it is compared."""

from recording import NOWHERE, Server

CREATE = "POST /runs/crons"
CRON = "/runs/crons/{cron}"
YEARLY = {"schedule": "0 0 1 1 *", "assistant_id": "chain"}


def cron_rows(server: Server) -> None:
    """Create, read, change, delete, search."""
    mark = {"case": "crons"}
    made = server("create", CREATE, YEARLY | {"input": {"items": ["x"]}, "metadata": mark})
    at = {"cron": made["cron_id"], "thread": server.thread()}
    full: dict[str, object] = {
        "input": {"items": ["x"]},
        "metadata": mark,
        "config": {"configurable": {"a": 1}},
        "interrupt_before": ["second"],
        "on_run_completed": "keep",
        "timezone": "Europe/Berlin",
        "end_time": "2099-01-01T00:00:00Z",
        "multitask_strategy": "enqueue",
        "stream_mode": ["values"],
        "enabled": False,
    }
    server("create with all", CREATE, YEARLY | full)
    server("create on a thread", "POST /threads/{thread}/runs/crons", YEARLY | {"metadata": mark}, at=at)
    server("create on an unknown thread", "POST /threads/{thread}/runs/crons", YEARLY, at={"thread": NOWHERE})
    server("create without a schedule", CREATE, {"assistant_id": "chain"})
    server("create without an assistant", CREATE, {"schedule": "* * * * *"})
    server("create with a bad schedule", CREATE, YEARLY | {"schedule": "nope"})
    server("create with a bad timezone", CREATE, YEARLY | {"timezone": "Mars/Base"})
    server("create of an unknown graph", CREATE, YEARLY | {"assistant_id": "nope"})
    server("create with a webhook on loopback", CREATE, YEARLY | {"webhook": "http://127.0.0.1/"})
    server("read", f"GET {CRON}", at=at)
    server("read an unknown one", f"GET {CRON}", at={"cron": NOWHERE})
    server("read a bad id", f"GET {CRON}", at={"cron": "nope"})
    server("change", f"PATCH {CRON}", {"schedule": "0 0 2 1 *", "metadata": {"more": 1}}, at=at)
    server("change enabled", f"PATCH {CRON}", {"enabled": False}, at=at)
    server("change nothing", f"PATCH {CRON}", {}, at=at)
    server("change to a bad schedule", f"PATCH {CRON}", {"schedule": "nope"}, at=at)
    server("change an unknown one", f"PATCH {CRON}", {"enabled": True}, at={"cron": NOWHERE})
    search = "POST /runs/crons/search"
    server("search", search, {"metadata": mark})
    server("search on a thread", search, {"thread_id": at["thread"]})
    server("search enabled", search, {"metadata": mark, "enabled": True})
    server("search one", search, {"metadata": mark, "limit": 1})
    server("search sorted", search, {"metadata": mark, "sort_by": "next_run_date", "sort_order": "asc"})
    server("search, select", search, {"metadata": mark, "select": ["schedule", "enabled"]})
    server("search, bogus sort", search, {"sort_by": "bogus"})
    server("count", "POST /runs/crons/count", {"metadata": mark})
    server("delete", f"DELETE {CRON}", at=at)
    server("delete again", f"DELETE {CRON}", at=at)
    server("read after delete", f"GET {CRON}", at=at)


CASES = (cron_rows,)
