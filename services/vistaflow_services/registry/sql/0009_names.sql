-- Names are compared without regard to case as Unicode defines it, whatever the locale of the
-- database: the embedded one has the locale C, in which lower() knows ASCII only.

CREATE FUNCTION folded(name text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
SELECT casefold(name COLLATE pg_catalog.pg_unicode_fast)
$$;

CREATE FUNCTION folded_parts(name text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
-- Every three letters that follow one another in a folded name; none of a shorter one.
SELECT coalesce(array_agg(DISTINCT substr(letters, place, 3)), '{}')
  FROM (SELECT casefold(name COLLATE pg_catalog.pg_unicode_fast) AS letters) AS once
 CROSS JOIN LATERAL generate_series(1, length(letters) - 2) AS place
$$;

-- For list_kits by a part of the name, in place of kits_name of 0006_lists. The function
-- name_parts stays: replicas of the former version call it until they are restarted.
CREATE INDEX kits_folded_name ON kits USING gin (folded_parts(name))
  WITH (gin_pending_list_limit = 256);
DROP INDEX kits_name;
