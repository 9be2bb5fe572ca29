-- API keys. The secret is nowhere: only its SHA-256, which says nothing of 256 random bits.
CREATE TABLE api_keys (
    key_id        uuid        PRIMARY KEY,
    secret_sha256 bytea       NOT NULL UNIQUE CHECK (octet_length(secret_sha256) = 32),
    prefix        text        NOT NULL,
    name          text        NOT NULL,
    identity      text        NOT NULL CHECK (identity <> ''),
    scopes        text[]      NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    last_used_at  timestamptz,
    revoked_at    timestamptz
);
COMMENT ON COLUMN api_keys.prefix IS 'how the secret begins, to tell keys apart';
COMMENT ON COLUMN api_keys.scopes IS 'auth events such as threads.read or threads.*; none: all';
