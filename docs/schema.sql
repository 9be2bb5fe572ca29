-- The tables of a migrated database: ours, the checkpointer's and the store's. Written by `make schema`.

CREATE FUNCTION leave_webhook() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, url, body)
    SELECT NEW.run_id,
           NEW.kwargs ->> 'webhook',
           jsonb_build_object(
               'run_id', NEW.run_id,
               'thread_id', NEW.thread_id,
               'assistant_id', NEW.assistant_id,
               'metadata', NEW.metadata,
               'status', NEW.status,
               'kwargs', NEW.kwargs,
               'multitask_strategy', NEW.multitask_strategy,
               'created_at', NEW.created_at,
               'updated_at', NEW.updated_at,
               'run_started_at', NEW.started_at,
               'run_ended_at', NEW.finished_at,
               'values', threads."values"
           ) || CASE WHEN NEW.error IS NULL THEN '{}'::jsonb ELSE jsonb_build_object('error', NEW.error) END
      FROM threads
     WHERE threads.thread_id = NEW.thread_id
    ON CONFLICT (run_id) DO NOTHING;
    PERFORM pg_notify('threadkeep', 'webhook');
    RETURN NULL;
END
$$;

CREATE TABLE assistant_versions (
    assistant_id uuid NOT NULL,
    version integer NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL,
    context jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT assistant_versions_version_check CHECK ((version >= 1))
);

CREATE TABLE assistants (
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    context jsonb DEFAULT '{}'::jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT assistants_config_check CHECK ((jsonb_typeof(config) = 'object'::text)),
    CONSTRAINT assistants_context_check CHECK ((jsonb_typeof(context) = 'object'::text)),
    CONSTRAINT assistants_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT assistants_version_check CHECK ((version >= 1))
);

CREATE TABLE checkpoint_blobs (
    thread_id text NOT NULL,
    checkpoint_ns text DEFAULT ''::text NOT NULL,
    channel text NOT NULL,
    version text NOT NULL,
    type text NOT NULL,
    blob bytea
);

CREATE TABLE checkpoint_migrations (
    v integer NOT NULL
);

CREATE TABLE checkpoint_writes (
    thread_id text NOT NULL,
    checkpoint_ns text DEFAULT ''::text NOT NULL,
    checkpoint_id text NOT NULL,
    task_id text NOT NULL,
    idx integer NOT NULL,
    channel text NOT NULL,
    type text,
    blob bytea NOT NULL,
    task_path text DEFAULT ''::text NOT NULL
);

CREATE TABLE checkpoints (
    thread_id text NOT NULL,
    checkpoint_ns text DEFAULT ''::text NOT NULL,
    checkpoint_id text NOT NULL,
    parent_checkpoint_id text,
    type text,
    checkpoint jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL
);

CREATE TABLE crons (
    cron_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    thread_id uuid,
    user_id text,
    schedule text NOT NULL,
    timezone text,
    payload jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    on_run_completed text,
    end_time timestamp with time zone,
    enabled boolean DEFAULT true NOT NULL,
    next_run_date timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT a_thread_is_deleted_or_given CHECK (((thread_id IS NULL) = (on_run_completed IS NOT NULL))),
    CONSTRAINT crons_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT crons_on_run_completed_check CHECK ((on_run_completed = ANY (ARRAY['delete'::text, 'keep'::text]))),
    CONSTRAINT crons_payload_check CHECK ((jsonb_typeof(payload) = 'object'::text))
);

COMMENT ON COLUMN crons.next_run_date IS 'the one tick that is to be fired next; who fires it moves it on in the same transaction';

CREATE TABLE run_events (
    run_id uuid NOT NULL,
    "position" integer NOT NULL,
    event text NOT NULL,
    data text NOT NULL
);

CREATE TABLE runs (
    run_id uuid NOT NULL,
    queue_position bigint NOT NULL,
    thread_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    status text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    kwargs jsonb DEFAULT '{}'::jsonb NOT NULL,
    multitask_strategy text DEFAULT 'enqueue'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    worker_id uuid,
    run_after timestamp with time zone DEFAULT now() NOT NULL,
    temporary boolean DEFAULT false NOT NULL,
    kept boolean DEFAULT true NOT NULL,
    cancel_action text,
    cancel_reason text,
    error jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT final_has_an_end CHECK (((status = ANY (ARRAY['pending'::text, 'running'::text])) = (finished_at IS NULL))),
    CONSTRAINT running_has_a_worker CHECK (((status = 'running'::text) = (worker_id IS NOT NULL))),
    CONSTRAINT runs_cancel_action_check CHECK ((cancel_action = ANY (ARRAY['interrupt'::text, 'rollback'::text]))),
    CONSTRAINT runs_kwargs_check CHECK ((jsonb_typeof(kwargs) = 'object'::text)),
    CONSTRAINT runs_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT runs_multitask_strategy_check CHECK ((multitask_strategy = ANY (ARRAY['reject'::text, 'enqueue'::text, 'interrupt'::text, 'rollback'::text]))),
    CONSTRAINT runs_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'success'::text, 'error'::text, 'timeout'::text, 'interrupted'::text])))
);

COMMENT ON COLUMN runs.temporary IS 'the thread goes with the run: a stateless run whose on_completion is delete';

COMMENT ON COLUMN runs.kept IS 'its events are written to run_events';

ALTER TABLE runs ALTER COLUMN queue_position ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME runs_queue_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE store (
    prefix text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamp with time zone,
    ttl_minutes integer
);

CREATE TABLE store_migrations (
    v integer NOT NULL
);

CREATE TABLE threadkeep_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE threads (
    thread_id uuid NOT NULL,
    status text DEFAULT 'idle'::text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    "values" jsonb,
    interrupts jsonb DEFAULT '{}'::jsonb NOT NULL,
    error jsonb,
    ttl_strategy text,
    ttl_minutes double precision,
    watched_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    state_updated_at timestamp with time zone DEFAULT now() NOT NULL,
    ttl_swept_at timestamp with time zone,
    CONSTRAINT threads_check CHECK (((ttl_strategy IS NULL) = (ttl_minutes IS NULL))),
    CONSTRAINT threads_config_check CHECK ((jsonb_typeof(config) = 'object'::text)),
    CONSTRAINT threads_interrupts_check CHECK ((jsonb_typeof(interrupts) = 'object'::text)),
    CONSTRAINT threads_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT threads_status_check CHECK ((status = ANY (ARRAY['idle'::text, 'busy'::text, 'interrupted'::text, 'error'::text]))),
    CONSTRAINT threads_ttl_minutes_check CHECK ((ttl_minutes > (0)::double precision)),
    CONSTRAINT threads_ttl_strategy_check CHECK ((ttl_strategy = ANY (ARRAY['delete'::text, 'keep_latest'::text])))
);

COMMENT ON COLUMN threads.watched_until IS 'somebody follows the whole thread: until then its runs keep their events';

CREATE TABLE webhook_deliveries (
    run_id uuid NOT NULL,
    url text NOT NULL,
    body jsonb NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    send_after timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE webhook_deliveries IS 'no reference to runs: a run that is deleted at its end has its webhook sent too';

CREATE TABLE workers (
    worker_id uuid NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    renewed_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY assistant_versions
    ADD CONSTRAINT assistant_versions_pkey PRIMARY KEY (assistant_id, version);

ALTER TABLE ONLY assistants
    ADD CONSTRAINT assistants_pkey PRIMARY KEY (assistant_id);

ALTER TABLE ONLY checkpoint_blobs
    ADD CONSTRAINT checkpoint_blobs_pkey PRIMARY KEY (thread_id, checkpoint_ns, channel, version);

ALTER TABLE ONLY checkpoint_migrations
    ADD CONSTRAINT checkpoint_migrations_pkey PRIMARY KEY (v);

ALTER TABLE ONLY checkpoint_writes
    ADD CONSTRAINT checkpoint_writes_pkey PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx);

ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id);

ALTER TABLE ONLY crons
    ADD CONSTRAINT crons_pkey PRIMARY KEY (cron_id);

ALTER TABLE ONLY run_events
    ADD CONSTRAINT run_events_pkey PRIMARY KEY (run_id, "position");

ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY store_migrations
    ADD CONSTRAINT store_migrations_pkey PRIMARY KEY (v);

ALTER TABLE ONLY store
    ADD CONSTRAINT store_pkey PRIMARY KEY (prefix, key);

ALTER TABLE ONLY threadkeep_migrations
    ADD CONSTRAINT threadkeep_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY threads
    ADD CONSTRAINT threads_pkey PRIMARY KEY (thread_id);

ALTER TABLE ONLY webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);

CREATE INDEX assistants_graph_id ON assistants USING btree (graph_id, created_at DESC);

CREATE INDEX assistants_metadata ON assistants USING gin (metadata jsonb_path_ops);

CREATE INDEX checkpoint_blobs_thread_id_idx ON checkpoint_blobs USING btree (thread_id);

CREATE INDEX checkpoint_writes_thread_id_idx ON checkpoint_writes USING btree (thread_id);

CREATE INDEX checkpoints_thread_id_idx ON checkpoints USING btree (thread_id);

CREATE INDEX crons_created_at ON crons USING btree (created_at DESC, cron_id DESC);

CREATE INDEX crons_due ON crons USING btree (next_run_date) WHERE enabled;

CREATE INDEX crons_metadata ON crons USING gin (metadata jsonb_path_ops);

CREATE INDEX crons_of_a_thread ON crons USING btree (thread_id);

CREATE INDEX idx_store_expires_at ON store USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE UNIQUE INDEX one_running_run_a_thread ON runs USING btree (thread_id) WHERE (status = 'running'::text);

CREATE INDEX runs_of_a_thread ON runs USING btree (thread_id, queue_position DESC);

CREATE INDEX runs_of_a_worker ON runs USING btree (worker_id) WHERE (status = 'running'::text);

CREATE INDEX runs_pending ON runs USING btree (queue_position) WHERE (status = 'pending'::text);

CREATE INDEX store_prefix_idx ON store USING btree (prefix text_pattern_ops);

CREATE INDEX threads_created_at ON threads USING btree (created_at DESC, thread_id DESC);

CREATE INDEX threads_metadata ON threads USING gin (metadata jsonb_path_ops);

CREATE INDEX threads_ttl ON threads USING btree (updated_at) WHERE (ttl_minutes IS NOT NULL);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries USING btree (send_after);

CREATE TRIGGER run_has_ended AFTER UPDATE OF status ON runs FOR EACH ROW WHEN (((old.finished_at IS NULL) AND (new.finished_at IS NOT NULL) AND (new.kwargs ? 'webhook'::text))) EXECUTE FUNCTION leave_webhook();

ALTER TABLE ONLY assistant_versions
    ADD CONSTRAINT assistant_versions_assistant_id_fkey FOREIGN KEY (assistant_id) REFERENCES assistants(assistant_id) ON DELETE CASCADE;

ALTER TABLE ONLY crons
    ADD CONSTRAINT crons_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;

ALTER TABLE ONLY run_events
    ADD CONSTRAINT run_events_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE;

ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;
