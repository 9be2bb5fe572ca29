-- Workers: processes that execute runs. The row is the lease of all runs of a process, and a heartbeat renews it. Other
-- processes treat a process without a row as dead.
CREATE TABLE workers (
    worker_id    uuid        PRIMARY KEY,
    project_id   text        NOT NULL,
    graph_ids    text[]      NOT NULL,
    run_slots    integer,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN workers.graph_ids IS 'the graphs that the process serves: it claims no runs of others';
COMMENT ON COLUMN workers.run_slots IS 'graphs that the process runs at once; NULL: a process of an earlier version';
COMMENT ON COLUMN workers.started_at IS 'when the process took this lease';

-- Checkpoints may be committed before they are on disk. After a crash, and on a standby, Postgres empties an unlogged table.
-- So a process without a marker may have lost writes that Postgres had confirmed, and has lost its lease.
CREATE UNLOGGED TABLE crash_markers (
    worker_id uuid PRIMARY KEY
);
COMMENT ON TABLE crash_markers IS 'one row for each process: Postgres has not crashed since the process took its lease';
