-- What a process tells of itself, for `GET /workers`.
ALTER TABLE workers
    ADD COLUMN started_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN run_slots integer;
COMMENT ON COLUMN workers.started_at IS 'when the process took this lease';
COMMENT ON COLUMN workers.run_slots IS 'graphs that the process runs at once; NULL: a process of an earlier version';
