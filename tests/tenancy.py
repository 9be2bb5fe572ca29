"""The tables whose rows are somebody's."""

TABLES = (
    "threads",
    "runs",
    "run_events",
    "assistants",
    "assistant_versions",
    "crons",
    "store",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
)
