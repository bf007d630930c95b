-- What the cache of kits asks for.

-- name: progress_of_attempts
-- What running jobs last said of their progress, with the attempt that said it.
SELECT job_id, attempt, progress, progress_at
FROM leases
WHERE job_id = ANY (%(job_ids)s::uuid[]) AND progress IS NOT NULL
