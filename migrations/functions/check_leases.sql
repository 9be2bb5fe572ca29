-- Fencing: lock the rows of a process and of its runs until the transaction ends. A transaction that takes a run away from
-- its process locks the run FOR UPDATE, so it comes before or after this one.
-- With few leases, Postgres would plan the statement anew each time (plan_cache_mode), which takes longer than to execute it.
-- TK001: the process has lost its lease. TK002: the run was deleted, has ended, or belongs to another process.
CREATE OR REPLACE FUNCTION check_leases(run_ids uuid[], worker_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    held int;
    lost uuid;
BEGIN
    -- Runs are found by their key alone. With worker and status in the condition, Postgres may read all running runs of the
    -- worker again for each lease.
    SELECT count(*) FILTER (WHERE is_owned) INTO held FROM (
        SELECT runs.status = 'running' AND runs.worker_id = lease.worker_id AS is_owned
          FROM unnest(run_ids, worker_ids) AS lease (run_id, worker_id)
          JOIN workers ON workers.worker_id = lease.worker_id
          JOIN crash_markers ON crash_markers.worker_id = lease.worker_id
          JOIN runs ON runs.run_id = lease.run_id
         ORDER BY lease.run_id
           FOR KEY SHARE OF workers, runs
    ) AS leases;
    IF held = cardinality(run_ids) THEN
        RETURN;
    END IF;
    SELECT lease.worker_id INTO lost
      FROM unnest(worker_ids) AS lease (worker_id)
     WHERE NOT EXISTS (SELECT FROM workers JOIN crash_markers USING (worker_id)
                        WHERE workers.worker_id = lease.worker_id)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the lease of process % is lost', lost USING ERRCODE = 'TK001';
    END IF;
    RAISE EXCEPTION 'a run is gone, has ended, or is executed by another process' USING ERRCODE = 'TK002';
END
$$;
