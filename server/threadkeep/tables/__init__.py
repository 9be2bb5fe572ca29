"""Tables: the SQL statements, grouped by table."""

TENANT_TABLES = (
    "threads",
    "runs",
    "run_events",
    "task_pushes",
    "run_undo_log",
    "assistants",
    "assistant_versions",
    "crons",
    "store",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
)
"""Tables whose rows belong to a tenant. All of them have row-level security."""
