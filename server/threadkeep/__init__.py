"""Threadkeep: a self-hosted agent server for LangGraph graphs, which needs only Postgres."""

import os

# LangGraph reads this once, when it is first imported, and leaves it off: a checkpoint row could then name any
# callable to be run on load. A graph's own state types stay allowed.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
# An SDK client without a URL is for this server (`api/loopback.py`). It must not look for LangGraph's own, which is
# installed in some environments.
os.environ.setdefault("__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT", "true")

__version__ = "0.1.0"
