-- Keys that seal what clients carry for the server, such as the `requestState` of MCP. The processes of a project share a key,
-- so that each of them opens what another one has sealed. The first process that needs the key makes it.
CREATE TABLE sealing_keys (
    project_id text        NOT NULL,
    purpose    text        NOT NULL,
    key        bytea       NOT NULL CHECK (octet_length(key) >= 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, purpose)
);
COMMENT ON COLUMN sealing_keys.purpose IS 'what it seals: a key has one purpose';
