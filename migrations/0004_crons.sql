-- Crons: runs that are started on a schedule, on one thread or each on a thread of its own.
CREATE TABLE crons (
    cron_id          uuid         PRIMARY KEY,
    project_id       text         NOT NULL,
    assistant_id     uuid         NOT NULL,
    thread_id        uuid         REFERENCES threads ON DELETE CASCADE,
    schedule         text         NOT NULL,
    timezone         text,
    payload          jsonb_object NOT NULL,
    metadata         jsonb_object NOT NULL DEFAULT '{}',
    principal        jsonb,
    metadata_filter  jsonb_object NOT NULL DEFAULT '{}',
    on_run_completed text         CHECK (on_run_completed IN ('delete', 'keep')),
    end_time         timestamptz,
    enabled          boolean      NOT NULL DEFAULT true,
    next_run_date    timestamptz,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    updated_at       timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT cron_has_thread_or_completion_policy CHECK ((thread_id IS NULL) = (on_run_completed IS NOT NULL))
);
COMMENT ON COLUMN crons.principal IS 'the user of its runs';
COMMENT ON COLUMN crons.metadata_filter IS 'which threads its runs may use: those that its owner may use';
COMMENT ON COLUMN crons.next_run_date IS 'the one fire time to come; the process that fires it moves it on in the same transaction';
CREATE INDEX crons_due ON crons (project_id, next_run_date) WHERE enabled;
CREATE INDEX crons_thread_id ON crons (thread_id);
CREATE INDEX crons_created_at ON crons (project_id, created_at DESC, cron_id DESC);
CREATE INDEX crons_metadata ON crons USING gin (metadata jsonb_path_ops);
