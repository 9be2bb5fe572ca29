-- Fencing: a process that was taken for dead can write nothing more. Each transaction that writes for a run calls
-- `hold_lease` first; the lock keeps the process from being taken for dead until the transaction has ended.

-- Checkpoints may be committed before they are on disk. Postgres empties an unlogged table when it recovers from a crash,
-- and on a standby: a process whose witness is gone may have lost what it was told was written, and has lost its lease.
CREATE UNLOGGED TABLE witnesses (
    worker_id uuid PRIMARY KEY
);
COMMENT ON TABLE witnesses IS 'one row a process: Postgres has not crashed since it took its lease';

CREATE FUNCTION hold_lease(holder uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM workers WHERE worker_id = holder FOR KEY SHARE;
    IF NOT FOUND OR NOT EXISTS (SELECT FROM witnesses WHERE worker_id = holder) THEN
        RAISE EXCEPTION 'the lease of process % is lost', holder USING ERRCODE = 'TK001';
    END IF;
END
$$;
