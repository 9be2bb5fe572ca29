-- Push notification configs of A2A: the addresses that are notified when a task ends or asks a question. The secrets are
-- only here. The sender reads them when it sends a delivery.
CREATE TABLE task_pushes (
    chain_id    uuid NOT NULL,
    config_id   text NOT NULL,
    project_id  text NOT NULL,
    thread_id   uuid NOT NULL REFERENCES threads ON DELETE CASCADE,
    protocol    text NOT NULL,
    url         text NOT NULL,
    token       text,
    scheme      text,
    credentials text,
    principal   text NOT NULL DEFAULT '',
    PRIMARY KEY (chain_id, config_id)
);
COMMENT ON TABLE task_pushes IS 'push notification configs of A2A';
COMMENT ON COLUMN task_pushes.protocol IS 'version of the protocol of the notifications';
COMMENT ON COLUMN task_pushes.principal IS
    'identity of its creator, and only the creator may read the secrets; empty if authentication is off';
CREATE INDEX task_pushes_thread_id ON task_pushes (thread_id);
