-- Queries, in the words of the users' table of jobs. A view: nothing to keep in step with the log.
CREATE VIEW query_job AS
SELECT j.job_id AS id,
       j.status,
       k.spec ->> 'user_query' AS user_query,
       k.spec ->> 'converted_query' AS converted_query,
       (k.spec ->> 'offset')::bigint AS offset_,
       (k.spec ->> 'limit')::bigint AS limit_,
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
       k.spec -> 'sources' AS sources,
       j.reason
  FROM jobs AS j
  JOIN kits AS k USING (kit_id)
 WHERE j.job_type = 'QUERY';
COMMENT ON VIEW query_job IS 'Every query; sources has the version of each table that it reads.';

CREATE VIEW fusion_model AS
SELECT j.first_revision * 1000 + s.place AS id,
       j.job_id,
       s.source ->> 'model_id' AS model_id_of_om,
       s.source ->> 'fqn' AS fully_qualified_name,
       s.source ->> 'trino' AS trino_model_name,
       s.source ->> 'version' AS version
  FROM jobs AS j
  JOIN kits AS k USING (kit_id),
       LATERAL jsonb_array_elements(k.spec -> 'sources') WITH ORDINALITY AS s (source, place)
 WHERE j.job_type = 'QUERY' AND jsonb_typeof(k.spec -> 'sources') = 'array';
COMMENT ON VIEW fusion_model IS 'The tables that queries read, of each query the first 100.';

CREATE VIEW model_queue AS
SELECT f.id,
       f.job_id,
       'vistaflow.results.' || k.project || '.' || quote_ident(j.job_id::text) AS model_name_fqn,
       f.fully_qualified_name AS from_fqn,
       'LINEAGE' AS command
  FROM fusion_model AS f
  JOIN jobs AS j USING (job_id)
  JOIN kits AS k USING (kit_id)
 WHERE j.status = 'FINISHED';
COMMENT ON VIEW model_queue IS 'From which table to which result data went. Nothing delivers it.';
