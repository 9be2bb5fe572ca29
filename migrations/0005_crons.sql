-- Crons: schedules that start runs, either all on one thread or each on a new thread.
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
COMMENT ON COLUMN crons.metadata_filter IS 'the metadata that a thread must have for its runs: its owner''s permissions';
COMMENT ON COLUMN crons.next_run_date IS 'the next time to start a run; the same transaction starts the run and moves this time on';
CREATE INDEX crons_due ON crons (project_id, next_run_date) WHERE enabled;
CREATE INDEX crons_thread_id ON crons (thread_id);
CREATE INDEX crons_created_at ON crons (project_id, created_at DESC, cron_id DESC);
CREATE INDEX crons_metadata ON crons USING gin (metadata jsonb_path_ops);
-- The crons of a principal are counted before it gets one more.
CREATE INDEX crons_principal ON crons (project_id, (principal ->> 'identity')) WHERE principal IS NOT NULL;
