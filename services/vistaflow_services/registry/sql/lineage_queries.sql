-- Queries of lineages. `project` is NULL for every project.

-- name: lineage_jobs
-- Jobs with what they used and made; of an import the version of the dataset.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.status, j.created_at,
       coalesce(j.finished_at, j.created_at), j.depends_on, j.spec_type, j.spec, j.result,
       k.project, CASE WHEN j.job_type = 'QUERY' THEN coalesce(k.spec -> 'sources', j.result -> 'tables') END,
       d.name, v.version, v.digest
  FROM jobs AS j
  JOIN kits AS k USING (kit_id)
  LEFT JOIN dataset_versions AS v ON v.job_id = j.job_id
  LEFT JOIN datasets AS d USING (dataset_id)
 WHERE j.job_id = ANY (%(job_ids)s) AND (%(project)s::text IS NULL OR k.project = %(project)s)
 ORDER BY j.current_order, j.first_revision

-- name: lineage_kits
-- The jobs of kits, in their order.
SELECT j.job_id, j.kit_id, j.name
  FROM jobs AS j
  JOIN kits AS k USING (kit_id)
 WHERE j.kit_id = ANY (%(kit_ids)s) AND (%(project)s::text IS NULL OR k.project = %(project)s)
 ORDER BY j.kit_id, j.current_order, j.first_revision

-- name: lineage_version
-- The job that made a version of a dataset, also of a deleted one; of version 0 the latest of a time.
SELECT v.job_id
  FROM dataset_versions AS v
  JOIN datasets AS d USING (dataset_id)
 WHERE d.project = %(of)s AND d.name = %(name)s
   AND CASE WHEN %(version)s = 0
            THEN %(before)s::timestamptz IS NULL OR v.created_at <= %(before)s
            ELSE v.version = %(version)s END
 ORDER BY v.version DESC LIMIT 1

-- name: lineage_alias
-- The version that an alias of a dataset names.
SELECT a.version
  FROM dataset_aliases AS a
  JOIN datasets AS d USING (dataset_id)
 WHERE d.project = %(of)s AND d.name = %(name)s AND a.alias = %(alias)s

-- name: lineage_users
-- Of the newest jobs those that name one of some texts, as what they use.
SELECT r.job_id
  FROM (SELECT j.job_id, j.spec, j.result -> 'files' AS files,
               CASE WHEN j.job_type = 'QUERY' THEN coalesce(k.spec ->> 'sources', j.result ->> 'tables') END
                   AS sources
          FROM jobs AS j
          JOIN kits AS k USING (kit_id)
         WHERE (%(project)s::text IS NULL OR k.project = %(project)s)
         ORDER BY j.first_revision DESC LIMIT %(searched)s) AS r
 WHERE EXISTS (SELECT FROM unnest(%(needles)s::bytea[]) AS n WHERE position(n IN r.spec) > 0)
    OR EXISTS (SELECT FROM unnest(%(texts)s::text[]) AS t
                WHERE strpos(r.sources, t) > 0 OR strpos(r.files::text, t) > 0)
 LIMIT %(most)s
