CREATE DOMAIN run_status AS text
    CHECK (VALUE IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted'));
CREATE DOMAIN multitask_strategy AS text CHECK (VALUE IN ('reject', 'enqueue', 'interrupt', 'rollback'));
CREATE DOMAIN cancel_action AS text CHECK (VALUE IN ('interrupt', 'rollback'));

-- Runs: the table is also the queue. States and transitions: docs/design.md#runs
--
-- A run that asks a question and the runs that answer it are a chain, which is one task of MCP or A2A. The metadata of each
-- run of a chain names the run itself, so neither a client nor the thread's metadata can add a run to a chain.
CREATE TABLE runs (
    run_id               uuid               PRIMARY KEY,
    project_id           text               NOT NULL,
    queue_position       bigint             GENERATED ALWAYS AS IDENTITY,
    thread_id            uuid               NOT NULL REFERENCES threads ON DELETE CASCADE,
    assistant_id         uuid               NOT NULL,
    graph_id             text               NOT NULL,
    status               run_status         NOT NULL,
    metadata             jsonb_object       NOT NULL DEFAULT '{}',
    kwargs               jsonb_object       NOT NULL DEFAULT '{}',
    principal            jsonb,
    multitask_strategy   multitask_strategy NOT NULL DEFAULT 'enqueue',
    attempt              integer            NOT NULL DEFAULT 0,
    worker_id            uuid,
    run_after            timestamptz        NOT NULL DEFAULT now(),
    ephemeral            boolean            NOT NULL DEFAULT false,
    record_events        boolean            NOT NULL DEFAULT true,
    deleted_events_until integer,
    cancel_action        cancel_action,
    cancel_reason        text,
    error                jsonb,
    output_keys          jsonb,
    chain_id             uuid,
    created_at           timestamptz        NOT NULL DEFAULT now(),
    updated_at           timestamptz        NOT NULL DEFAULT now(),
    started_at           timestamptz,
    finished_at          timestamptz,
    CONSTRAINT running_run_has_worker CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CONSTRAINT finished_run_has_end CHECK ((status IN ('pending', 'running')) = (finished_at IS NULL))
);
COMMENT ON COLUMN runs.principal IS 'the user that requested it, as graphs see it; no API shows it';
COMMENT ON COLUMN runs.ephemeral IS 'the thread is deleted with it: a stateless run whose on_completion is delete';
COMMENT ON COLUMN runs.record_events IS 'its events are written to run_events';
COMMENT ON COLUMN runs.deleted_events_until IS 'its events up to this position were deleted; NULL: none were';
COMMENT ON COLUMN runs.output_keys IS
    'the keys of the thread''s values that it answers with (an array), or the one key whose value it answers with (a string);'
    ' JSON null: all; NULL: its graph did not finish';
COMMENT ON COLUMN runs.chain_id IS 'id of the first run of its chain; NULL: it is in no chain';

CREATE UNIQUE INDEX one_running_run_per_thread ON runs (thread_id) WHERE status = 'running';
CREATE INDEX runs_pending ON runs (project_id, queue_position) WHERE status = 'pending';
-- Principals are served round robin. A run without authentication has the principal ''.
CREATE INDEX runs_pending_principal ON runs (project_id, (coalesce(principal ->> 'identity', '')), queue_position)
 WHERE status = 'pending';
CREATE INDEX runs_thread_id ON runs (thread_id, queue_position DESC);
CREATE INDEX runs_worker_id ON runs (worker_id) WHERE status = 'running';
CREATE INDEX runs_events_to_delete ON runs (project_id, finished_at)
 WHERE finished_at IS NOT NULL AND record_events AND deleted_events_until IS NULL;
CREATE INDEX runs_chain_id ON runs (chain_id, queue_position) WHERE chain_id IS NOT NULL;
CREATE INDEX runs_chain_assistant ON runs (project_id, assistant_id, updated_at DESC, run_id DESC)
 WHERE chain_id IS NOT NULL;

-- The recorded events of runs, by position. `data` is the JSON that was sent. It is text, because jsonb would change it.
CREATE TABLE run_events (
    run_id   uuid    NOT NULL REFERENCES runs ON DELETE CASCADE,
    position integer NOT NULL,
    event    text    NOT NULL,
    data     text    NOT NULL,
    PRIMARY KEY (run_id, position)
);

-- A run that resumes another run writes to the checkpoint at which that run stopped. The previous rows are kept here until
-- the run ends, so that a rollback can restore them.
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
COMMENT ON TABLE run_undo_log IS 'rows of checkpoint_writes before a run changed those of an earlier run';
COMMENT ON COLUMN run_undo_log.existed IS 'false: there was no such row, and a rollback deletes it';

-- A run that was asked for, and its thread. Without a `status` there is no run: there is no such thread, the thread exists or
-- has another run, or the run exists already.
CREATE TYPE created_run AS (
    ordinal            int,
    merged_metadata    jsonb,
    events_recorded    boolean,
    thread_found       boolean,
    thread_created     boolean,
    active_run_id      uuid,
    status             text,
    created_at         timestamptz,
    superseded_run_ids uuid[]
);
