-- Readers: tokens that read the datasets that their scopes name, and see nothing else.

ALTER TABLE tokens
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{}',
    DROP CONSTRAINT tokens_role_check,
    ADD CONSTRAINT tokens_role_check
        CHECK (role IN ('VIEWER', 'EDITOR', 'ADMIN', 'WORKER', 'READER')),
    ADD CONSTRAINT tokens_scopes_check CHECK ((scopes <> '{}') = (role = 'READER'));
COMMENT ON COLUMN tokens.scopes IS 'What a READER reads: dataset:PROJECT.NAME@ALIAS:read. Former releases refuse the role.';
