-- Rows found by their seq, however many their job has.

-- For recorded_seqs.
CREATE INDEX mlops_totalstate_seq ON mlops_totalstate_table (job_id, attempt, seq) WHERE seq > 0;
