-- Webhook deliveries: requests that are still to be sent. A run may have several: its webhook, and one for each push
-- notification config of its task.
CREATE TABLE webhook_deliveries (
    run_id     uuid        NOT NULL,
    config_id  text        NOT NULL DEFAULT '',
    thread_id  uuid        NOT NULL,
    project_id text        NOT NULL,
    principal  text        NOT NULL DEFAULT '',
    url        text        NOT NULL,
    body       jsonb       NOT NULL,
    attempt    integer     NOT NULL DEFAULT 0,
    send_after timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, config_id)
);
COMMENT ON TABLE webhook_deliveries IS
    'without a foreign key to runs, because the webhook of a run that is deleted at its end is sent too';
COMMENT ON COLUMN webhook_deliveries.config_id IS 'the push notification config of a task; empty: the webhook of the run';
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (project_id, send_after);
-- Principals are served round robin. A run without authentication has the principal ''.
CREATE INDEX webhook_deliveries_principal ON webhook_deliveries (project_id, principal, send_after);
CREATE INDEX webhook_deliveries_created_at ON webhook_deliveries (project_id, created_at);
CREATE INDEX webhook_deliveries_thread_id ON webhook_deliveries (thread_id);
