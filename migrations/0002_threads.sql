CREATE DOMAIN thread_status AS text CHECK (VALUE IN ('idle', 'busy', 'interrupted', 'error'));
CREATE DOMAIN ttl_strategy AS text CHECK (VALUE IN ('delete', 'keep_latest'));
CREATE DOMAIN ttl_minutes AS float CHECK (VALUE > 0);

-- Threads: what a client sees of a conversation. Its checkpoints are in the checkpointer's own tables. No index has `status`
-- or `updated_at`, which each turn changes, so that Postgres changes the row in place.
CREATE TABLE threads (
    thread_id           uuid          PRIMARY KEY,
    project_id          text          NOT NULL,
    status              thread_status NOT NULL DEFAULT 'idle',
    metadata            jsonb         NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    config              jsonb_object  NOT NULL DEFAULT '{}',
    "values"            json,
    interrupts          jsonb_object  NOT NULL DEFAULT '{}',
    error               jsonb,
    ttl_strategy        ttl_strategy,
    ttl_minutes         ttl_minutes,
    expires_at          timestamptz,
    ttl_pruned_at       timestamptz,
    ephemeral_until     timestamptz,
    record_events_until timestamptz,
    created_at          timestamptz   NOT NULL DEFAULT now(),
    updated_at          timestamptz   NOT NULL DEFAULT now(),
    state_updated_at    timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT ttl_has_strategy_and_minutes CHECK ((ttl_strategy IS NULL) = (ttl_minutes IS NULL))
);
COMMENT ON COLUMN threads."values" IS 'the state after the last run as it was written: json, not jsonb, and taken apart only to search it';
COMMENT ON COLUMN threads.expires_at IS '`updated_at` and the time to live, set by a trigger';
COMMENT ON COLUMN threads.ttl_pruned_at IS 'when `keep_latest` last took the old checkpoints, which does not change `updated_at`';
COMMENT ON COLUMN threads.ephemeral_until IS 'made for one run: after the run no search finds it, and after this it is deleted';
COMMENT ON COLUMN threads.record_events_until IS 'a client follows the whole thread: until then the events of its runs are recorded';
CREATE INDEX threads_created_at ON threads (project_id, created_at DESC, thread_id DESC);
CREATE INDEX threads_metadata ON threads USING gin (metadata jsonb_path_ops);
CREATE INDEX threads_expires_at ON threads (project_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX threads_ephemeral_until ON threads (project_id, ephemeral_until) WHERE ephemeral_until IS NOT NULL;

-- The values of long threads are compressed if that costs next to nothing (LZ4), else not at all.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)) THEN
        EXECUTE 'ALTER TABLE threads ALTER "values" SET COMPRESSION lz4';
    ELSE
        ALTER TABLE threads ALTER "values" SET STORAGE EXTERNAL;
    END IF;
END
$$;
