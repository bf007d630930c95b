-- Lists that take as long with a million kits as with a thousand.

-- For list_kits by status, with or without a project.
CREATE INDEX kits_status ON kits (status, kit_id DESC);
CREATE INDEX kits_project_status ON kits (project, status, kit_id DESC);
-- For list_jobs by type and status.
CREATE INDEX jobs_kind ON jobs (job_type, status, first_revision DESC);

CREATE FUNCTION name_parts(name text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
-- Every three letters that follow one another in a name; none of a shorter one.
SELECT coalesce(array_agg(DISTINCT substr(lower(name), place, 3)), '{}')
  FROM generate_series(1, length(name) - 2) AS place
$$;
-- For list_kits by a part of the name. Rows that wait to be sorted in are read by every search, and
-- sorted in by whoever commits when they are too many: so only few may wait.
CREATE INDEX kits_name ON kits USING gin (name_parts(name)) WITH (gin_pending_list_limit = 256);
ALTER INDEX kits_labels SET (gin_pending_list_limit = 256);
ALTER INDEX jobs_labels SET (gin_pending_list_limit = 256);
