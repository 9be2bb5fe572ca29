-- Assistants: a graph with a configuration. Every graph has one of its own ("system"), made at the start.
CREATE TABLE assistants (
    assistant_id uuid        PRIMARY KEY,
    graph_id     text        NOT NULL,
    version      integer     NOT NULL DEFAULT 1 CHECK (version >= 1),
    name         text        NOT NULL,
    description  text,
    config       jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    context      jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(context) = 'object'),
    metadata     jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX assistants_graph_id ON assistants (graph_id, created_at DESC);
CREATE INDEX assistants_metadata ON assistants USING gin (metadata jsonb_path_ops);

-- Every version that an assistant has had, the current one included.
CREATE TABLE assistant_versions (
    assistant_id uuid        NOT NULL REFERENCES assistants ON DELETE CASCADE,
    version      integer     NOT NULL CHECK (version >= 1),
    graph_id     text        NOT NULL,
    name         text        NOT NULL,
    description  text,
    config       jsonb       NOT NULL,
    context      jsonb       NOT NULL,
    metadata     jsonb       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (assistant_id, version)
);

-- Threads: what a client sees of a conversation. Its checkpoints are in the checkpointer's own tables.
CREATE TABLE threads (
    thread_id        uuid        PRIMARY KEY,
    status           text        NOT NULL DEFAULT 'idle' CHECK (status IN ('idle', 'busy', 'interrupted', 'error')),
    metadata         jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    config           jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    "values"         jsonb,
    interrupts       jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(interrupts) = 'object'),
    error            jsonb,
    ttl_strategy     text        CHECK (ttl_strategy IN ('delete', 'keep_latest')),
    ttl_minutes      double precision CHECK (ttl_minutes > 0),
    watched_until    timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    state_updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((ttl_strategy IS NULL) = (ttl_minutes IS NULL))
);
COMMENT ON COLUMN threads.watched_until IS 'somebody follows the whole thread: until then its runs keep their events';
CREATE INDEX threads_created_at ON threads (created_at DESC, thread_id DESC);
CREATE INDEX threads_metadata ON threads USING gin (metadata jsonb_path_ops);
CREATE INDEX threads_ttl ON threads (updated_at) WHERE ttl_minutes IS NOT NULL;

-- Processes that execute runs. One heartbeat row for all the runs of a process; a row that is gone is a dead process.
CREATE TABLE workers (
    worker_id  uuid        PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    renewed_at timestamptz NOT NULL DEFAULT now()
);

-- Runs: the table is also the queue. States and who moves them: docs/design.md#runs
CREATE TABLE runs (
    run_id             uuid        PRIMARY KEY,
    queue_position     bigint      GENERATED ALWAYS AS IDENTITY,
    thread_id          uuid        NOT NULL REFERENCES threads ON DELETE CASCADE,
    assistant_id       uuid        NOT NULL,
    graph_id           text        NOT NULL,
    status             text        NOT NULL
                       CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')),
    metadata           jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    kwargs             jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(kwargs) = 'object'),
    multitask_strategy text        NOT NULL DEFAULT 'enqueue'
                       CHECK (multitask_strategy IN ('reject', 'enqueue', 'interrupt', 'rollback')),
    attempt            integer     NOT NULL DEFAULT 0,
    worker_id          uuid,
    run_after          timestamptz NOT NULL DEFAULT now(),
    temporary          boolean     NOT NULL DEFAULT false,
    kept               boolean     NOT NULL DEFAULT true,
    cancel_action      text        CHECK (cancel_action IN ('interrupt', 'rollback')),
    cancel_reason      text,
    error              jsonb,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    finished_at        timestamptz,
    CONSTRAINT running_has_a_worker CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CONSTRAINT final_has_an_end CHECK ((status IN ('pending', 'running')) = (finished_at IS NULL))
);
COMMENT ON COLUMN runs.temporary IS 'the thread goes with the run: a stateless run whose on_completion is delete';
COMMENT ON COLUMN runs.kept IS 'its events are written to run_events';

-- One running run a thread, in the whole fleet.
CREATE UNIQUE INDEX one_running_run_a_thread ON runs (thread_id) WHERE status = 'running';
CREATE INDEX runs_pending ON runs (queue_position) WHERE status = 'pending';
CREATE INDEX runs_of_a_thread ON runs (thread_id, queue_position DESC);
CREATE INDEX runs_of_a_worker ON runs (worker_id) WHERE status = 'running';

-- What a kept run has streamed, by position. `data` is JSON as it was sent; text, for jsonb would change it.
CREATE TABLE run_events (
    run_id   uuid    NOT NULL REFERENCES runs ON DELETE CASCADE,
    position integer NOT NULL,
    event    text    NOT NULL,
    data     text    NOT NULL,
    PRIMARY KEY (run_id, position)
);
