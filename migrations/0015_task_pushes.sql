-- Push notifications of tasks: who is told when a task has ended or asks. A secret stays here, and a delivery reads it.
CREATE TABLE task_pushes (
    chain_id     uuid        NOT NULL,
    config_id    text        NOT NULL,
    project_id   text        NOT NULL,
    thread_id    uuid        NOT NULL REFERENCES threads ON DELETE CASCADE,
    protocol     text        NOT NULL,
    url          text        NOT NULL,
    token        text,
    scheme       text,
    credentials  text,
    principal    text        NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, config_id)
);
COMMENT ON TABLE task_pushes IS 'push notification configs of A2A';
COMMENT ON COLUMN task_pushes.protocol IS 'version of the protocol by which the receiver is told';
COMMENT ON COLUMN task_pushes.principal IS 'identity of its creator, who alone is told the secrets; empty if authentication is off';
CREATE INDEX task_pushes_thread_id ON task_pushes (thread_id);

-- A run may have several deliveries: its webhook, and one for each push notification config of its task.
ALTER TABLE webhook_deliveries ADD COLUMN config_id text NOT NULL DEFAULT '';
ALTER TABLE webhook_deliveries DROP CONSTRAINT webhook_deliveries_pkey;
ALTER TABLE webhook_deliveries ADD PRIMARY KEY (run_id, config_id);
COMMENT ON COLUMN webhook_deliveries.config_id IS 'the push notification config of a task that is told; empty: the webhook of the run';
