-- Idempotency keys: the results of requests with an Idempotency-Key, so that a repeated request creates nothing more.
CREATE TABLE idempotency_keys (
    project_id     text        NOT NULL,
    principal      text        NOT NULL,
    key            text        NOT NULL,
    request_sha256 bytea       NOT NULL,
    thread_ids     uuid[]      NOT NULL,
    result_ids     uuid[]      NOT NULL,
    completed      boolean     NOT NULL DEFAULT false,
    reservation_id uuid        NOT NULL,
    worker_id      uuid        NOT NULL,
    reserved_until timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (project_id, principal, key)
);
COMMENT ON COLUMN idempotency_keys.principal IS 'identity of the caller; empty if authentication is off';
COMMENT ON COLUMN idempotency_keys.request_sha256 IS 'of method, path and body';
COMMENT ON COLUMN idempotency_keys.result_ids IS 'of the runs or the cron that the request creates, in order; empty for a thread';
COMMENT ON COLUMN idempotency_keys.completed IS 'set in the transaction that creates the rows with these ids';
COMMENT ON COLUMN idempotency_keys.worker_id IS 'the process that handles the request; if it is dead, another process may';
CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (project_id, expires_at);
