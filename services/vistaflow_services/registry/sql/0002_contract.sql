-- Pausing kits, reading the past, changing many jobs by one request.

ALTER TABLE kits
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN pauses integer NOT NULL DEFAULT 0,
    ADD COLUMN first_revision bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN kits.pauses IS 'How often it was paused: the attempt of its latest row named pause in the log.';
COMMENT ON COLUMN kits.first_revision IS 'Its first row; where the log ended for a kit that was made without jobs.';
UPDATE kits
   SET first_revision =
       coalesce((SELECT min(j.first_revision) FROM jobs j WHERE j.kit_id = kits.kit_id), revision);

COMMENT ON COLUMN mlops_totalstate_table.job_id IS 'The job. On a kit''s own rows (job_type KIT, such as its pauses) the kit''s number as a UUID, which is no job''s.';

-- For list_kits by time.
CREATE INDEX kits_created ON kits (created_at);
-- For kits, jobs and rows of one project.
CREATE INDEX kits_project ON kits (project, kit_id DESC);
-- For parts_of_request.
CREATE INDEX request_info_parts ON request_info ((data ->> 'part_of')) WHERE data ? 'part_of';
