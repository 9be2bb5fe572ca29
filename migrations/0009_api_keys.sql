-- API keys. The secret is stored nowhere. Its SHA-256 reveals nothing, because the secret has 256 random bits.
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
COMMENT ON COLUMN api_keys.prefix IS 'the first characters of the secret, to tell keys apart';
COMMENT ON COLUMN api_keys.scopes IS 'auth events such as threads.read or threads.*; empty: all';
