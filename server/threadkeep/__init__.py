"""Threadkeep: a self-hosted agent server for LangGraph graphs, on Postgres alone."""

import os

# LangGraph reads this once, when it is first imported, and leaves it off: a checkpoint row could then name any
# callable to be run on load. A graph's own state types stay allowed. This is the one write to the environment.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")

__version__ = "0.1.0"
