-- The state of a chain of runs as a task, from its newest run and the open interrupts of the thread. The interrupts belong to
-- that run unless a later run of the thread has begun. If such a run has answered or dropped the
-- question, it is no longer open, and the task is completed.
CREATE OR REPLACE FUNCTION chain_state(
    run_status text,
    reason_of_cancel text,
    of_thread uuid,
    run_position bigint,
    thread_interrupts jsonb
) RETURNS text LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
BEGIN
    CASE run_status
        WHEN 'pending' THEN RETURN 'submitted';
        WHEN 'running' THEN RETURN 'working';
        WHEN 'interrupted' THEN RETURN 'canceled';
        WHEN 'success' THEN NULL;
        ELSE RETURN 'failed';
    END CASE;
    IF reason_of_cancel = 'the task was canceled while it waited' THEN
        RETURN 'canceled';
    END IF;
    IF thread_interrupts <> '{}' AND NOT EXISTS (
        SELECT FROM runs AS later
         WHERE later.thread_id = of_thread AND later.queue_position > run_position
           AND later.started_at IS NOT NULL)
    THEN
        RETURN 'input_required';
    END IF;
    RETURN 'completed';
END
$$;
