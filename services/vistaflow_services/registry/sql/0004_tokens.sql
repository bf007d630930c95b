-- Who may call: bearer tokens, of which only a digest is kept.

CREATE TABLE tokens (
    token_id      uuid PRIMARY KEY,
    number        bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    name          text NOT NULL,
    project       text NOT NULL,
    role          varchar(20) NOT NULL,
    secret_sha256 bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by    text NOT NULL,
    expires_at    timestamptz,
    revoked_at    timestamptz,
    CHECK (role IN ('VIEWER', 'EDITOR', 'ADMIN', 'WORKER')),
    CHECK ((project = '') = (role IN ('ADMIN', 'WORKER'))),
    CHECK (octet_length(secret_sha256) = 32)
);
COMMENT ON TABLE tokens IS 'Bearer tokens. The secret itself is nowhere: secret_sha256 is the digest of the whole text.';
COMMENT ON COLUMN tokens.project IS 'The only project there is for the bearer; empty for those of every project.';

-- For list_tokens.
CREATE UNIQUE INDEX tokens_number ON tokens (number DESC);
