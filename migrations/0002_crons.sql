-- Crons: runs that are started on a schedule, on one thread or each on a thread of its own.
CREATE TABLE crons (
    cron_id          uuid        PRIMARY KEY,
    assistant_id     uuid        NOT NULL,
    thread_id        uuid        REFERENCES threads ON DELETE CASCADE,
    user_id          text,
    schedule         text        NOT NULL,
    timezone         text,
    payload          jsonb       NOT NULL CHECK (jsonb_typeof(payload) = 'object'),
    metadata         jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    on_run_completed text        CHECK (on_run_completed IN ('delete', 'keep')),
    end_time         timestamptz,
    enabled          boolean     NOT NULL DEFAULT true,
    next_run_date    timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_thread_is_deleted_or_given CHECK ((thread_id IS NULL) = (on_run_completed IS NOT NULL))
);
COMMENT ON COLUMN crons.next_run_date IS 'the one tick that is to be fired next; who fires it moves it on in the same transaction';

CREATE INDEX crons_due ON crons (next_run_date) WHERE enabled;
CREATE INDEX crons_of_a_thread ON crons (thread_id);
CREATE INDEX crons_created_at ON crons (created_at DESC, cron_id DESC);
CREATE INDEX crons_metadata ON crons USING gin (metadata jsonb_path_ops);
