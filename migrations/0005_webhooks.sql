-- Webhooks that are still to be sent, one a run.
CREATE TABLE webhook_deliveries (
    run_id     uuid        PRIMARY KEY,
    thread_id  uuid        NOT NULL,
    project_id text        NOT NULL,
    url        text        NOT NULL,
    body       jsonb       NOT NULL,
    attempt    integer     NOT NULL DEFAULT 0,
    send_after timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE webhook_deliveries IS 'without a foreign key to runs: the webhook of a run that is deleted at its end is sent too';
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (project_id, send_after);
CREATE INDEX webhook_deliveries_thread_id ON webhook_deliveries (thread_id);
