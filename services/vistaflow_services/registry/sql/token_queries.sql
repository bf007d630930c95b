-- Queries of the bearer tokens.

-- name: create_token
-- Keeps a token's digest; returns the token.
INSERT INTO tokens (token_id, name, project, role, secret_sha256, created_by, expires_at,
                    scopes)
VALUES (%(token_id)s, %(name)s, %(project)s, %(role)s, %(digest)s, %(created_by)s,
        clock_timestamp() + make_interval(secs => %(seconds)s::float8), %(scopes)s::text[])
RETURNING token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes

-- name: create_token_once
-- The same for a request that may come again, of which the token's id is kept as the answer; returns
-- nothing if it was answered before.
WITH asked AS (
    INSERT INTO request_info (data, request_id, method, body_sha256, response, created_at, actor)
    VALUES (%(data)s, %(request_id)s, %(method)s, %(body_sha256)s,
            convert_to(%(token_id)s::text, 'UTF8'), clock_timestamp(), %(actor)s)
    ON CONFLICT (request_id) DO NOTHING RETURNING id
)
INSERT INTO tokens (token_id, name, project, role, secret_sha256, created_by, expires_at,
                    scopes)
SELECT %(token_id)s, %(name)s, %(project)s, %(role)s, %(digest)s, %(created_by)s,
       clock_timestamp() + make_interval(secs => %(seconds)s::float8), %(scopes)s::text[]
  FROM asked
RETURNING token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes

-- name: answered_request
-- The method, the body and the answer of a request.
SELECT method, body_sha256, response FROM request_info WHERE request_id = %(request_id)s

-- name: renew_token
-- Puts the digest of another text in the place of a token's that is valid; returns the token.
UPDATE tokens SET secret_sha256 = %(digest)s
 WHERE token_id = %(token_id)s AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes

-- name: token_by_id
-- A token with its digest, whether it is revoked, and for how many seconds more it is valid.
SELECT token_id, name, project, role, secret_sha256, revoked_at IS NOT NULL,
       extract(epoch FROM expires_at - clock_timestamp())::float8, scopes
  FROM tokens WHERE token_id = %(token_id)s

-- name: list_tokens
-- Tokens without their digests, newest first.
SELECT token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes
  FROM tokens WHERE number < %(before)s
 ORDER BY number DESC LIMIT %(limit)s

-- name: token_times
-- A token without its digest.
SELECT token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes
  FROM tokens WHERE token_id = %(token_id)s

-- name: revoke_token
-- Makes a token invalid, if it is not already; returns it. Keeps the request.
WITH asked AS (
    INSERT INTO request_info (data, method, body_sha256, response, created_at, actor)
    SELECT jsonb_build_object('token_id', token_id), 'RevokeToken', '',
           convert_to(token_id::text, 'UTF8'), clock_timestamp(), %(actor)s
      FROM tokens WHERE token_id = %(token_id)s
)
UPDATE tokens SET revoked_at = coalesce(revoked_at, clock_timestamp())
 WHERE token_id = %(token_id)s
RETURNING token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes

-- name: revoke_tokens_named
-- Makes the other tokens of a name and role invalid; returns them.
UPDATE tokens SET revoked_at = clock_timestamp()
 WHERE name = %(name)s AND role = %(role)s AND revoked_at IS NULL AND token_id <> %(token_id)s
RETURNING token_id, number, name, project, role, created_at, expires_at, revoked_at, scopes

-- name: project_of_kit
-- The project of a kit.
SELECT project FROM kits WHERE kit_id = %(kit_id)s

-- name: project_of_job
-- The project of a job's kit.
SELECT k.project FROM jobs j JOIN kits k USING (kit_id) WHERE j.job_id = %(job_id)s

-- name: kits_of_others
-- Which kits are of other projects than one.
SELECT kit_id FROM kits WHERE kit_id = ANY (%(kit_ids)s::int[]) AND project <> %(project)s

-- name: jobs_of_others
-- Which jobs are of kits of other projects than one.
SELECT j.job_id FROM jobs j JOIN kits k USING (kit_id)
 WHERE j.job_id = ANY (%(job_ids)s::uuid[]) AND k.project <> %(project)s
