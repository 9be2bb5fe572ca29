-- Fencing: a process that was taken for dead can write nothing more. Each transaction that writes for a run calls this
-- first; the lock keeps the process from being taken for dead until the transaction has ended.
CREATE FUNCTION hold_lease(holder uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM workers WHERE worker_id = holder FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'process % was taken for dead', holder USING ERRCODE = 'TK001';
    END IF;
END
$$;
