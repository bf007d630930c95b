-- Queries of datasets.

-- name: lock_datasets
-- Waits until no other transaction changes a dataset of a project.
SELECT pg_advisory_xact_lock(
           hashtextextended('vistaflow datasets ' || current_schema() || ' ' || %(project)s, 0))

-- name: share_blobs
-- Has no file be given to be purged before the end of the transaction.
SELECT pg_advisory_xact_lock_shared(
           hashtextextended('vistaflow blobs ' || current_schema(), 0))

-- name: lock_blobs
-- Waits until no other transaction records files or gives them to be purged.
SELECT pg_advisory_xact_lock(hashtextextended('vistaflow blobs ' || current_schema(), 0))

-- name: list_datasets
-- Datasets by project and name, with their aliases and their latest versions. None after those that
-- have so many bytes.
SELECT d.dataset_id, d.project, d.name, d.description, d.labels, d.version_count, d.size_bytes,
       d.created_at,
       coalesce((SELECT jsonb_object_agg(a.alias, a.version)
                   FROM dataset_aliases a WHERE a.dataset_id = d.dataset_id), '{}'),
       d.quota_bytes, d.max_versions, d.max_age,
       v.version, v.created_at, v.parent, v.source, v.job_id, v.row_count, v.rejected_count,
       v.size_bytes, v.digest, v.pinned
  FROM (SELECT *, sum(octet_length(labels::text) + octet_length(description))
                      OVER (ORDER BY project, name ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                      AS bytes_before
          FROM (SELECT * FROM datasets
                 WHERE deleted_at IS NULL
                   AND (%(project)s::text IS NULL OR project = %(project)s)
                   AND (%(name)s::text IS NULL OR name = %(name)s)
                   AND strpos(name, %(name_contains)s) > 0
                   AND (%(after)s::numeric IS NULL
                        OR (project, name) > (SELECT project, name FROM datasets
                                               WHERE dataset_id = %(after)s))
                 ORDER BY project, name
                 LIMIT %(limit)s) AS page) AS d
  LEFT JOIN LATERAL (SELECT * FROM dataset_versions
                      WHERE dataset_id = d.dataset_id AND deleted_at IS NULL
                      ORDER BY version DESC LIMIT 1) AS v ON true
 WHERE coalesce(d.bytes_before, 0) < %(bytes)s
 ORDER BY d.project, d.name

-- name: list_dataset_versions
-- Versions of a dataset that are not deleted, newest first.
SELECT version, created_at, parent, source, job_id, row_count, rejected_count, size_bytes, digest,
       pinned
  FROM dataset_versions
 WHERE dataset_id = %(dataset_id)s AND deleted_at IS NULL AND version <= %(newest)s
 ORDER BY version DESC
 LIMIT %(limit)s

-- name: dataset_version
-- A version that is not deleted, with what it holds.
SELECT version, created_at, parent, source, job_id, row_count, rejected_count, size_bytes, digest,
       pinned, manifest::text, coalesce(report::text, ''), coalesce(profile::text, '')
  FROM dataset_versions
 WHERE dataset_id = %(dataset_id)s AND version = %(version)s AND deleted_at IS NULL

-- name: put_dataset
-- The id and the last version of a dataset, which is made if it is not there.
INSERT INTO datasets AS d (project, name) VALUES (%(project)s, %(name)s)
ON CONFLICT (project, name) DO UPDATE
   SET description = CASE WHEN d.deleted_at IS NULL THEN d.description ELSE '' END,
       labels = CASE WHEN d.deleted_at IS NULL THEN d.labels ELSE '{}' END,
       quota_bytes = CASE WHEN d.deleted_at IS NULL THEN d.quota_bytes ELSE 0 END,
       max_versions = CASE WHEN d.deleted_at IS NULL THEN d.max_versions ELSE 0 END,
       max_age = CASE WHEN d.deleted_at IS NULL THEN d.max_age END,
       created_at = CASE WHEN d.deleted_at IS NULL THEN d.created_at ELSE clock_timestamp() END,
       deleted_at = NULL
RETURNING dataset_id, last_version

-- name: change_dataset
-- Changes what callers set of a dataset.
UPDATE datasets
   SET description = %(description)s, labels = %(labels)s, quota_bytes = %(quota_bytes)s,
       max_versions = %(max_versions)s, max_age = %(max_age)s
 WHERE dataset_id = %(dataset_id)s

-- name: delete_dataset
-- Deletes a dataset, whose versions were deleted.
UPDATE datasets SET deleted_at = clock_timestamp() WHERE dataset_id = %(dataset_id)s

-- name: pin_version
-- Pins a version, or unpins it.
UPDATE dataset_versions SET pinned = %(pinned)s
 WHERE dataset_id = %(dataset_id)s AND version = %(version)s

-- name: set_alias
-- Has an alias name a version.
INSERT INTO dataset_aliases (dataset_id, alias, version)
VALUES (%(dataset_id)s, %(alias)s, %(version)s)
ON CONFLICT (dataset_id, alias) DO UPDATE SET version = excluded.version

-- name: move_aliases
-- Has the aliases of one version name another.
UPDATE dataset_aliases SET version = %(version)s
 WHERE dataset_id = %(dataset_id)s AND version = %(parent)s

-- name: remove_alias
-- Removes an alias.
DELETE FROM dataset_aliases WHERE dataset_id = %(dataset_id)s AND alias = %(alias)s

-- name: keep_request
-- Keeps a request; returns nothing if it was kept before.
INSERT INTO request_info (data, request_id, method, body_sha256, response, created_at, actor)
VALUES (%(data)s::jsonb, %(request_id)s, %(method)s, %(body_sha256)s, '', clock_timestamp(),
        %(actor)s)
ON CONFLICT (request_id) DO NOTHING RETURNING request_id

-- name: recording_job
-- The project and the type of a job.
SELECT k.project, j.job_type
  FROM jobs j JOIN kits k USING (kit_id) WHERE j.job_id = %(job_id)s

-- name: hold_running_job
-- The job if it is running; it stays so until the end of the transaction.
SELECT job_id FROM jobs WHERE job_id = %(job_id)s AND status = 'RUNNING' FOR SHARE

-- name: version_of_job
-- The version that a job recorded, and with it what retention deleted.
SELECT d.project, d.name, v.version, v.deleted_at IS NOT NULL,
       (SELECT coalesce(array_agg(version ORDER BY version), '{}') FROM dataset_versions
         WHERE dataset_id = v.dataset_id AND deleted_by = v.version AND deletion <> 'FORGOTTEN')
  FROM dataset_versions v JOIN datasets d USING (dataset_id)
 WHERE v.job_id = %(job_id)s

-- name: purged_meanwhile
-- A file that was purged, or is being purged, since a job began. Those to be purged stay so long.
SELECT f.sha256
  FROM forgotten_blobs f, jobs j
 WHERE f.sha256 = ANY (%(blobs)s::bytea[]) AND j.job_id = %(job_id)s
   AND f.given_at IS NOT NULL AND coalesce(f.purged_at >= j.started_at, true)

-- name: hold_forgotten_blobs
-- Has the files of a version not be given to be purged before the end of the transaction.
SELECT sha256 FROM forgotten_blobs
 WHERE sha256 = ANY (%(blobs)s::bytea[]) ORDER BY sha256 FOR SHARE

-- name: insert_version
-- Records a version under the next number; it is pinned if one that it replaces was.
WITH counted AS (
    UPDATE datasets SET last_version = %(version)s WHERE dataset_id = %(dataset_id)s
), recorded AS (
    INSERT INTO dataset_versions (dataset_id, version, job_id, parent, source, digest, row_count,
                                  rejected_count, size_bytes, manifest, report, profile, pinned)
    VALUES (%(dataset_id)s, %(version)s, %(job_id)s, %(parent)s, %(source)s, %(digest)s,
            %(row_count)s, %(rejected_count)s, %(size_bytes)s, %(manifest)s::jsonb,
            %(report)s::jsonb, %(profile)s::jsonb,
            EXISTS (SELECT FROM dataset_versions
                     WHERE dataset_id = %(dataset_id)s AND version = %(parent)s AND pinned
                       AND version = ANY (%(forgotten)s::bigint[])))
    RETURNING dataset_id
)
INSERT INTO dataset_blobs (dataset_id, version, sha256, size_bytes)
SELECT dataset_id, %(version)s, blob.sha256, blob.size_bytes
  FROM recorded, unnest(%(blobs)s::bytea[], %(sizes)s::bigint[]) AS blob (sha256, size_bytes)

-- name: expired_versions
-- Versions that retention does not keep, of one dataset or of all: never the latest, a pinned one or
-- one with an alias.
SELECT dataset_id, project, version, reason
  FROM (SELECT v.dataset_id, d.project, v.version, place,
               CASE WHEN d.max_versions > 0 AND place > d.max_versions THEN 'MAX_VERSIONS'
                    WHEN v.created_at < clock_timestamp() - d.max_age THEN 'MAX_AGE' END AS reason
          FROM (SELECT dataset_id, version, created_at, pinned,
                       row_number() OVER (PARTITION BY dataset_id ORDER BY version DESC) AS place
                  FROM dataset_versions WHERE deleted_at IS NULL) AS v
          JOIN datasets d USING (dataset_id)
         WHERE (d.max_versions > 0 OR d.max_age IS NOT NULL)
           AND (%(dataset_id)s::bigint IS NULL OR v.dataset_id = %(dataset_id)s)
           AND place > 1 AND NOT pinned
           AND NOT EXISTS (SELECT FROM dataset_aliases a
                            WHERE a.dataset_id = v.dataset_id AND a.version = v.version)
       ) AS spare
 WHERE reason IS NOT NULL
 ORDER BY dataset_id, version

-- name: delete_versions
-- Deletes versions, with their aliases and references; returns those that were not deleted before.
WITH gone AS (
    UPDATE dataset_versions AS v
       SET manifest = NULL, report = NULL, profile = NULL, pinned = false,
           deleted_at = clock_timestamp(), deletion = named.reason, deleted_by = %(deleted_by)s
      FROM unnest(%(versions)s::bigint[], %(reasons)s::text[]) AS named (version, reason)
     WHERE v.dataset_id = %(dataset_id)s AND v.version = named.version AND v.deleted_at IS NULL
    RETURNING v.dataset_id, v.version
), unnamed AS (
    DELETE FROM dataset_aliases a USING gone
     WHERE a.dataset_id = gone.dataset_id AND a.version = gone.version
), released AS (
    DELETE FROM dataset_blobs b USING gone
     WHERE b.dataset_id = gone.dataset_id AND b.version = gone.version
)
SELECT version FROM gone ORDER BY version

-- name: measure_datasets
-- Counts the versions and bytes of a dataset, or of all; returns its bytes and its quota.
UPDATE datasets d
   SET version_count = (SELECT count(*) FROM dataset_versions v
                         WHERE v.dataset_id = d.dataset_id AND v.deleted_at IS NULL),
       size_bytes = (SELECT coalesce(sum(size_bytes), 0)
                       FROM (SELECT DISTINCT ON (sha256) size_bytes FROM dataset_blobs b
                              WHERE b.dataset_id = d.dataset_id) AS blobs)
 WHERE %(dataset_id)s::bigint IS NULL OR d.dataset_id = %(dataset_id)s
RETURNING size_bytes, quota_bytes

-- name: project_bytes
-- Bytes of the files of all datasets of a project; what they share counts once.
SELECT coalesce(sum(size_bytes), 0)::bigint
  FROM (SELECT DISTINCT ON (sha256) b.size_bytes
          FROM dataset_blobs b JOIN datasets d USING (dataset_id)
         WHERE d.project = %(project)s) AS blobs

-- name: forget_blobs
-- Has files be purged at a time, or earlier where they are to be already.
INSERT INTO forgotten_blobs AS f (sha256, purge_at)
SELECT sha256, %(purge_at)s FROM unnest(%(blobs)s::bytea[]) AS blob (sha256) ORDER BY sha256
ON CONFLICT (sha256) DO UPDATE
   SET purge_at = CASE WHEN f.purged_at IS NULL THEN least(f.purge_at, excluded.purge_at)
                       ELSE excluded.purge_at END,
       given_at = CASE WHEN f.purged_at IS NULL THEN f.given_at END,
       purged_at = NULL

-- name: release_blobs
-- Has files be purged now that no version refers to, and that are not to be purged anyway.
INSERT INTO forgotten_blobs AS f (sha256, purge_at)
SELECT sha256, clock_timestamp() FROM unnest(%(blobs)s::bytea[]) AS blob (sha256)
 WHERE NOT EXISTS (SELECT FROM dataset_blobs b WHERE b.sha256 = blob.sha256)
 ORDER BY sha256
ON CONFLICT (sha256) DO UPDATE
   SET purge_at = excluded.purge_at, given_at = NULL, purged_at = NULL
 WHERE f.purged_at IS NOT NULL

-- name: referenced_blobs
-- Which files a version refers to, or are to be purged later.
SELECT encode(sha256, 'hex')
  FROM unnest(%(blobs)s::bytea[]) AS asked (sha256)
 WHERE EXISTS (SELECT FROM dataset_blobs b WHERE b.sha256 = asked.sha256)
    OR EXISTS (SELECT FROM forgotten_blobs f
                WHERE f.sha256 = asked.sha256 AND f.purged_at IS NULL)

-- name: dumped_files
-- The files that versions refer to, in the order of their hashes.
SELECT DISTINCT ON (sha256) sha256, size_bytes
  FROM dataset_blobs WHERE sha256 > %(after)s ORDER BY sha256 LIMIT %(limit)s

-- name: settle_purged_blobs
-- Notes which files were purged, of those that were given to be.
UPDATE forgotten_blobs SET purged_at = clock_timestamp()
 WHERE sha256 = ANY (%(blobs)s::bytea[]) AND given_at IS NOT NULL AND purged_at IS NULL

-- name: due_blobs
-- Files to purge that no version refers to, without those that were given to a service shortly before.
SELECT sha256
  FROM forgotten_blobs f
 WHERE purged_at IS NULL AND purge_at <= clock_timestamp()
   AND (given_at IS NULL OR given_at < clock_timestamp() - make_interval(secs => %(seconds)s))
   AND NOT EXISTS (SELECT FROM dataset_blobs b WHERE b.sha256 = f.sha256)
 ORDER BY sha256
 LIMIT %(limit)s
   FOR UPDATE SKIP LOCKED

-- name: overdue_blobs
-- How many files that no version refers to should have been purged so many seconds ago.
SELECT count(*)
  FROM forgotten_blobs f
 WHERE purged_at IS NULL AND purge_at < clock_timestamp() - make_interval(secs => %(seconds)s)
   AND NOT EXISTS (SELECT FROM dataset_blobs b WHERE b.sha256 = f.sha256)

-- name: give_blobs
-- Gives files to be purged, of those that are held, unless a version came to refer to one meanwhile.
UPDATE forgotten_blobs f SET given_at = clock_timestamp()
 WHERE sha256 = ANY (%(blobs)s::bytea[])
   AND NOT EXISTS (SELECT FROM dataset_blobs b WHERE b.sha256 = f.sha256)
RETURNING encode(sha256, 'hex')

-- name: settle_dataset_numbers
-- After a restore: numbers of versions go on after those of the log that was put aside.
UPDATE datasets d SET last_version = greatest(d.last_version, there.last_version)
  FROM {datasets} there
 WHERE there.project = d.project AND there.name = d.name

-- name: settle_forgotten_versions
-- Deletes the versions that were deleted there, to be forgotten.
WITH gone AS (
    UPDATE dataset_versions v
       SET manifest = NULL, report = NULL, profile = NULL, pinned = false,
           deleted_at = there.deleted_at, deletion = there.deletion, deleted_by = there.deleted_by
      FROM {dataset_versions} there
     WHERE there.job_id = v.job_id AND there.deletion = 'FORGOTTEN' AND v.deleted_at IS NULL
    RETURNING v.dataset_id, v.version
), unnamed AS (
    DELETE FROM dataset_aliases a USING gone
     WHERE a.dataset_id = gone.dataset_id AND a.version = gone.version
)
DELETE FROM dataset_blobs b USING gone
 WHERE b.dataset_id = gone.dataset_id AND b.version = gone.version

-- name: settle_forgotten_blobs
-- Has the files be purged that were to be there.
INSERT INTO forgotten_blobs SELECT * FROM {forgotten_blobs}
ON CONFLICT (sha256) DO NOTHING
