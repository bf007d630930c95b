-- Names are searched for one or two letters by an index, and queries of data kits have their tables.

-- In Korean a word may have two letters.

CREATE FUNCTION name_grams(name text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
-- Every one, two and three letters that follow one another in a folded name. Letters are split first:
-- each substr() would count from the first letter on.
SELECT array_agg(a || b || c) || array_agg(a || b) || array_agg(a)
  FROM (SELECT a, coalesce(lead(a) OVER letters, '') AS b, coalesce(lead(a, 2) OVER letters, '') AS c
          FROM string_to_table(casefold(name COLLATE pg_catalog.pg_unicode_fast), NULL)
               WITH ORDINALITY AS split (a, place)
        WINDOW letters AS (ORDER BY place)) AS grams
$$;

CREATE FUNCTION part_grams(part text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
-- What to look up for a part of a name: every three letters of it, or all if it has fewer.
SELECT array_agg(DISTINCT substr(letters, place, 3))
  FROM (SELECT casefold(part COLLATE pg_catalog.pg_unicode_fast) AS letters) AS once
 CROSS JOIN LATERAL generate_series(1, greatest(1, length(letters) - 2)) AS place
$$;

-- For list_kits by a part of the name, in place of kits_folded_name of 0009_names. The function
-- folded_parts stays: replicas of the former version call it until they are restarted.
CREATE INDEX kits_grams ON kits USING gin (name_grams(name)) WITH (gin_pending_list_limit = 256);
DROP INDEX kits_folded_name;

-- A data kit has its queries in `jobs`, by name. Their tables are known when they run: each publishes
-- them with its result.
CREATE OR REPLACE VIEW query_job AS
SELECT j.job_id AS id,
       j.status,
       coalesce(k.spec ->> 'user_query', k.spec #>> ARRAY['jobs', j.name, 'query', 'user_query']) AS user_query,
       coalesce(k.spec ->> 'converted_query', j.result ->> 'converted_query') AS converted_query,
       coalesce(k.spec ->> 'offset', j.result ->> 'offset')::bigint AS offset_,
       coalesce(k.spec ->> 'limit', j.result ->> 'limit')::bigint AS limit_,
       j.created_at AS created,
       coalesce(j.finished_at, j.started_at, j.created_at) AS updated,
       j.result ->> 'result_name' AS result_name,
       j.result ->> 'result_path' AS result_path,
       k.project,
       j.labels ->> 'query.caller' AS caller,
       (j.result ->> 'rows')::bigint AS rows,
       (j.result ->> 'bytes')::bigint AS bytes,
       (j.result ->> 'limited')::boolean AS limited,
       j.started_at - j.created_at AS queue_duration,
       make_interval(secs => (j.result ->> 'plan_seconds')::float8) AS plan_duration,
       make_interval(secs => (j.result ->> 'run_seconds')::float8) AS run_duration,
       j.result ->> 'engine' AS engine,
       coalesce(k.spec -> 'sources', j.result -> 'tables') AS sources,
       j.reason
  FROM jobs AS j
  JOIN kits AS k USING (kit_id)
 WHERE j.job_type = 'QUERY';

CREATE OR REPLACE VIEW fusion_model AS
SELECT j.first_revision * 1000 + s.place AS id,
       j.job_id,
       s.source ->> 'model_id' AS model_id_of_om,
       s.source ->> 'fqn' AS fully_qualified_name,
       s.source ->> 'trino' AS trino_model_name,
       s.source ->> 'version' AS version
  FROM jobs AS j
  JOIN kits AS k USING (kit_id)
 CROSS JOIN LATERAL coalesce(k.spec -> 'sources', j.result -> 'tables') AS sources
 CROSS JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(sources) = 'array' THEN sources END)
            WITH ORDINALITY AS s (source, place)
 WHERE j.job_type = 'QUERY';
