CREATE DOMAIN thread_status AS text CHECK (VALUE IN ('idle', 'busy', 'interrupted', 'error'));
CREATE DOMAIN ttl_strategy AS text CHECK (VALUE IN ('delete', 'keep_latest'));
CREATE DOMAIN ttl_minutes AS float CHECK (VALUE > 0);

-- Threads: the part of a conversation that clients see. Its checkpoints are in the checkpointer's own tables.
--
-- A run updates `status` and `updated_at` twice. No index contains them, so Postgres updates the row in place (a heap-only
-- tuple) and writes to no index. The title changes once in the life of most threads. The fillfactor keeps room in each page
-- for the values that the first run adds. In pages that inserts had filled, only a third of the updates found room.
CREATE TABLE threads (
    thread_id           uuid          PRIMARY KEY,
    project_id          text          NOT NULL,
    status              thread_status NOT NULL DEFAULT 'idle',
    metadata            jsonb         NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    "values"            json,
    interrupts          jsonb_object  NOT NULL DEFAULT '{}',
    error               jsonb,
    first_message       text,
    title               text          GENERATED ALWAYS AS (
        left(coalesce(nullif(metadata ->> 'title', ''), first_message), 120)
    ) STORED,
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
) WITH (fillfactor = 40);
COMMENT ON COLUMN threads."values" IS
    'the state after the last run as it was written: json, because jsonb would change it, and only searches parse it';
COMMENT ON COLUMN threads.first_message IS 'beginning of the first human message in `messages` of an input or of the state';
COMMENT ON COLUMN threads.title IS '`title` of the metadata, or else the first message';
COMMENT ON COLUMN threads.expires_at IS '`updated_at` plus the TTL, set by a trigger';
COMMENT ON COLUMN threads.ttl_pruned_at IS 'when `keep_latest` last deleted old checkpoints, which does not change `updated_at`';
COMMENT ON COLUMN threads.ephemeral_until IS 'created for one run: searches do not return it, and it is deleted after this time';
COMMENT ON COLUMN threads.record_events_until IS 'a client follows the whole thread: the events of its runs are recorded until then';
CREATE INDEX threads_created_at ON threads (project_id, created_at DESC, thread_id DESC);
CREATE INDEX threads_metadata ON threads USING gin (metadata jsonb_path_ops);
CREATE INDEX threads_expires_at ON threads (project_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX threads_ephemeral_until ON threads (project_id, ephemeral_until) WHERE ephemeral_until IS NOT NULL;
CREATE INDEX threads_title ON threads USING gin (to_tsvector('simple', title)) WHERE title IS NOT NULL;

-- Large values are compressed by LZ4, which costs little. A Postgres that was built without LZ4 does not compress them.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)) THEN
        EXECUTE 'ALTER TABLE threads ALTER "values" SET COMPRESSION lz4';
    ELSE
        ALTER TABLE threads ALTER "values" SET STORAGE EXTERNAL;
    END IF;
END
$$;
