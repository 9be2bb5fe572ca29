-- Processes that execute runs. The row is the lease of all runs of a process, renewed by a heartbeat. Without it the
-- process is dead to the others.
CREATE TABLE workers (
    worker_id    uuid        PRIMARY KEY,
    project_id   text        NOT NULL,
    graph_ids    text[]      NOT NULL,
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN workers.graph_ids IS 'the graphs that the process serves: it claims no runs of others';

-- Checkpoints may be committed before they are on disk. Postgres empties an unlogged table when it recovers from a crash,
-- and on a standby. A process whose marker is gone may have lost what it was told was written, and has lost its lease.
CREATE UNLOGGED TABLE crash_markers (
    worker_id uuid PRIMARY KEY
);
COMMENT ON TABLE crash_markers IS 'one row a process: Postgres has not crashed since it took its lease';

CREATE DOMAIN run_status AS text
    CHECK (VALUE IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted'));
CREATE DOMAIN multitask_strategy AS text CHECK (VALUE IN ('reject', 'enqueue', 'interrupt', 'rollback'));
CREATE DOMAIN cancel_action AS text CHECK (VALUE IN ('interrupt', 'rollback'));

-- Runs: the table is also the queue. States and transitions: docs/design.md#runs
CREATE TABLE runs (
    run_id             uuid               PRIMARY KEY,
    project_id         text               NOT NULL,
    queue_position     bigint             GENERATED ALWAYS AS IDENTITY,
    thread_id          uuid               NOT NULL REFERENCES threads ON DELETE CASCADE,
    assistant_id       uuid               NOT NULL,
    graph_id           text               NOT NULL,
    status             run_status         NOT NULL,
    metadata           jsonb_object       NOT NULL DEFAULT '{}',
    kwargs             jsonb_object       NOT NULL DEFAULT '{}',
    principal          jsonb,
    multitask_strategy multitask_strategy NOT NULL DEFAULT 'enqueue',
    attempt            integer            NOT NULL DEFAULT 0,
    worker_id          uuid,
    run_after          timestamptz        NOT NULL DEFAULT now(),
    ephemeral          boolean            NOT NULL DEFAULT false,
    record_events      boolean            NOT NULL DEFAULT true,
    cancel_action      cancel_action,
    cancel_reason      text,
    error              jsonb,
    output_keys        jsonb,
    created_at         timestamptz        NOT NULL DEFAULT now(),
    updated_at         timestamptz        NOT NULL DEFAULT now(),
    started_at         timestamptz,
    finished_at        timestamptz,
    CONSTRAINT running_run_has_worker CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CONSTRAINT finished_run_has_end CHECK ((status IN ('pending', 'running')) = (finished_at IS NULL))
);
COMMENT ON COLUMN runs.principal IS 'the user who asked, as graphs see them; in no column that an API shows';
COMMENT ON COLUMN runs.ephemeral IS 'the thread goes with the run: a stateless run whose on_completion is delete';
COMMENT ON COLUMN runs.record_events IS 'its events are written to run_events';
COMMENT ON COLUMN runs.output_keys IS
    'keys of the thread''s values that the run answers with (an array), or the one whose value it is (a string);'
    ' JSON''s null: all; NULL: its graph did not come to an end';

CREATE UNIQUE INDEX one_running_run_per_thread ON runs (thread_id) WHERE status = 'running';
CREATE INDEX runs_pending ON runs (project_id, queue_position) WHERE status = 'pending';
-- The queue is served round robin over principals. Without a known principal: ''.
CREATE INDEX runs_pending_principal ON runs (project_id, (coalesce(principal ->> 'identity', '')), queue_position)
 WHERE status = 'pending';
CREATE INDEX runs_thread_id ON runs (thread_id, queue_position DESC);
CREATE INDEX runs_worker_id ON runs (worker_id) WHERE status = 'running';

-- What a run has streamed, by position. `data` is JSON as it was sent; text, because jsonb would change it.
CREATE TABLE run_events (
    run_id   uuid    NOT NULL REFERENCES runs ON DELETE CASCADE,
    position integer NOT NULL,
    event    text    NOT NULL,
    data     text    NOT NULL,
    PRIMARY KEY (run_id, position)
);

-- A run that resumes another one writes to the checkpoint at which that one stopped. What stood there before is kept until
-- the run has ended, so that a rollback can put it back.
CREATE TABLE run_undo_log (
    run_id        uuid    NOT NULL REFERENCES runs ON DELETE CASCADE,
    checkpoint_ns text    NOT NULL,
    checkpoint_id text    NOT NULL,
    task_id       text    NOT NULL,
    idx           integer NOT NULL,
    existed       boolean NOT NULL,
    channel       text,
    type          text,
    blob          bytea,
    task_path     text,
    PRIMARY KEY (run_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
COMMENT ON TABLE run_undo_log IS 'rows of checkpoint_writes as they were before a run changed those of an earlier run';
COMMENT ON COLUMN run_undo_log.existed IS 'false: there was no such row, and a rollback deletes it';
