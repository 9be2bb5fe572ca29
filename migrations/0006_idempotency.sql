-- What a request with an Idempotency-Key has made, so that the same request again makes nothing more.
CREATE TABLE idempotency_keys (
    principal      text        NOT NULL,
    key            text        NOT NULL,
    request        bytea       NOT NULL,
    thread_ids     uuid[]      NOT NULL,
    ids            uuid[]      NOT NULL,
    opened         boolean     NOT NULL DEFAULT false,
    reservation    uuid        NOT NULL,
    worker_id      uuid        NOT NULL,
    reserved_until timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key)
);
COMMENT ON COLUMN idempotency_keys.principal IS 'who sent it; empty while there is no authentication';
COMMENT ON COLUMN idempotency_keys.request IS 'SHA-256 of method, path and body';
COMMENT ON COLUMN idempotency_keys.ids IS 'of the runs or the cron that are made, in order; of a thread none';
COMMENT ON COLUMN idempotency_keys.opened IS 'set in the transaction that makes what the ids name';
COMMENT ON COLUMN idempotency_keys.worker_id IS 'the process that makes it; where that is dead, another may';
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);

-- The thread of a stateless run stays for a while after the run, so that its answer can be had once more.
ALTER TABLE threads ADD COLUMN temporary_until timestamptz;
COMMENT ON COLUMN threads.temporary_until IS 'made for one run alone: after that no search finds it, and after this it is deleted';
CREATE INDEX threads_temporary ON threads (temporary_until) WHERE temporary_until IS NOT NULL;
