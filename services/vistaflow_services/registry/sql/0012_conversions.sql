-- Conversions as the users' former scripts read them. Views: nothing to keep in step with the log.
CREATE VIEW convert_job AS
SELECT j.job_id,
       j.status,
       coalesce(s.metadata -> 'options', '{}'::jsonb) AS options,
       j.result ->> 'name' AS result_name,
       j.result ->> 'output' AS result_path,
       j.created_at,
       coalesce(j.finished_at, j.started_at, j.created_at) AS updated_at
  FROM jobs AS j
  LEFT JOIN current_state AS s
         ON s.kit_id = j.kit_id AND s.job_id = j.job_id AND s.task_name = 'convert'
 WHERE j.job_type = 'CONVERT';
COMMENT ON VIEW convert_job IS 'Every conversion; its options hold no secret.';

CREATE VIEW csv_rows AS
SELECT s.job_id,
       s.metadata ->> 'table_name' AS table_name,
       s.metadata ->> 'file_name' AS file_name,
       (s.metadata ->> 'part')::integer AS part,
       (s.metadata ->> 'row_count')::bigint AS row_count,
       (s.metadata ->> 'size_bytes')::bigint AS size_bytes,
       s.metadata ->> 'sha256' AS sha256
  FROM jobs AS j
  JOIN current_state AS s ON s.kit_id = j.kit_id AND s.job_id = j.job_id
 WHERE j.job_type = 'CONVERT' AND s.task_name <> 'convert' AND s.metadata ? 'file_name';
COMMENT ON VIEW csv_rows IS 'The files of conversions, of each the first 10,000.';

CREATE VIEW job_status AS
SELECT job_id,
       CASE WHEN status = 'FINISHED' THEN 'DONE'
            WHEN status IN ('FAILED', 'CANCELED') THEN 'FAILED'
            ELSE 'WORKING' END AS status,
       CASE status WHEN 'CANCELED' THEN 'canceled' WHEN 'FAILED' THEN reason ELSE '' END AS msg,
       floor(extract(epoch FROM created_at))::bigint AS job_start_time
  FROM jobs
 WHERE job_type = 'CONVERT';
COMMENT ON VIEW job_status IS 'The status of conversions in the words of the users'' former API.';
