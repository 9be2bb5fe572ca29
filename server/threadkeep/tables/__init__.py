"""Tables: the SQL statements, one module a table."""

TENANT_TABLES = (
    "threads",
    "runs",
    "run_events",
    "run_undo_log",
    "assistants",
    "assistant_versions",
    "crons",
    "store",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
)
"""Tables whose rows belong to somebody: all have policies of row-level security."""
