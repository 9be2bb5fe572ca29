-- Cancel runs, selected by thread, ids and statuses, on threads whose metadata contains `match`. A pending run ends at once,
-- and with `rollback` it is deleted. A running run gets a cancel request.
CREATE OR REPLACE FUNCTION cancel_runs(
    of_project text,
    of_thread uuid,
    run_ids uuid[],
    statuses text[],
    action text,
    reason text,
    match jsonb
) RETURNS TABLE (run_id uuid, was_running boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    held uuid[];
    cancelled record;
BEGIN
    SELECT array_agg(thread_id) INTO held
      FROM (SELECT thread_id
              FROM threads
             WHERE project_id = of_project AND metadata @> match
               AND thread_id IN (SELECT thread_id
                                   FROM runs
                                  WHERE status IN ('pending', 'running')
                                    AND (of_thread IS NULL OR thread_id = of_thread)
                                    AND (run_ids IS NULL OR run_id = ANY(run_ids)))
             ORDER BY thread_id
               FOR NO KEY UPDATE) AS locked;
    FOR cancelled IN
        UPDATE runs
           SET status        = CASE status WHEN 'pending' THEN 'interrupted' ELSE status END,
               finished_at   = CASE status WHEN 'pending' THEN clock_timestamp() END,
               cancel_action = action,
               cancel_reason = reason,
               updated_at    = clock_timestamp()
         WHERE thread_id = ANY(held) AND status = ANY(statuses) AND status IN ('pending', 'running')
           AND (of_thread IS NULL OR thread_id = of_thread)
           AND (run_ids IS NULL OR run_id = ANY(run_ids))
        RETURNING run_id, thread_id, status = 'running' AS was_running, started_at IS NOT NULL AS began
    LOOP
        IF action = 'rollback' AND NOT cancelled.was_running THEN
            PERFORM delete_run_checkpoints(cancelled.thread_id, cancelled.run_id)
              WHERE cancelled.began; -- an earlier attempt began, but its process died or stopped
            DELETE FROM runs WHERE run_id = cancelled.run_id;
        ELSIF NOT cancelled.was_running THEN
            DELETE FROM run_undo_log WHERE run_undo_log.run_id = cancelled.run_id;
        END IF;
        PERFORM pg_notify('threadkeep', 'run:' || cancelled.run_id);
        IF cancelled.was_running THEN
            PERFORM pg_notify('threadkeep', 'cancel');
        END IF;
        run_id := cancelled.run_id;
        was_running := cancelled.was_running;
        RETURN NEXT;
    END LOOP;
    -- A thread without running and pending runs gets its previous status.
    UPDATE threads
       SET status = CASE WHEN interrupts <> '{}' THEN 'interrupted' WHEN error IS NOT NULL THEN 'error' ELSE 'idle' END,
           updated_at = clock_timestamp()
     WHERE thread_id = ANY(held) AND status = 'busy'
       AND NOT EXISTS (SELECT FROM runs
                        WHERE runs.thread_id = threads.thread_id AND runs.status IN ('pending', 'running'));
END
$$;
