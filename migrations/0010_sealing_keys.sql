-- Sealing keys encrypt data that clients keep for the server, such as the `requestState` of MCP. The processes of a project
-- share a key, so each can open the data that another one sealed. The first process that needs a key creates it.
CREATE TABLE sealing_keys (
    project_id text  NOT NULL,
    purpose    text  NOT NULL,
    key        bytea NOT NULL CHECK (octet_length(key) >= 32),
    PRIMARY KEY (project_id, purpose)
);
COMMENT ON COLUMN sealing_keys.purpose IS 'the kind of data that it seals: a key has one purpose';
