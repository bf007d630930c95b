-- Backups and clean-ups as jobs.

-- For last_backup.
CREATE INDEX jobs_backup ON jobs (finished_at) WHERE job_type = 'BACKUP' AND status = 'FINISHED';

-- The weekly clean-up: there from the start. It can be paused, changed and deleted as any other.
INSERT INTO schedules (project, name, timing, overlap, catch_up_window, paused, note, kit, kit_name,
                       handled_until, created_at, updated_at, actor)
SELECT 'system', 'weekly-cleanup',
       -- Timing: cron "0 0 * * 0", in UTC.
       decode('0a09302030202a202a2030', 'hex'),
       'SKIP', interval '7 days', false, 'removes what is older than 7 days',
       -- CreateKitRequest: one job CLEANUP with CleanUpSpec(days=7).
       decode('120e7765656b6c792d636c65616e75701a0673797374656d2a4d0a07636c65616e7570100e2a400a3a747970652e676f6f676c65617069732e636f6d2f7669737461666c6f772e6170692e696e67657374696f6e2e76312e436c65616e55705370656312020807', 'hex'),
       'weekly-cleanup', now, now, now, 'vistaflow'
  FROM (SELECT clock_timestamp()) AS clock (now)
ON CONFLICT (project, name) DO NOTHING;
