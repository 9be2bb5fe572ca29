-- Return a process's runs to the queue if they started over `idle_s` seconds ago, except for `still_executed`. Returns their
-- number.
CREATE OR REPLACE FUNCTION requeue_runs(holder uuid, still_executed uuid[], idle_s float, count_attempt boolean) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    requeued int := 0;
    abandoned record;
BEGIN
    PERFORM FROM threads
      WHERE thread_id IN (SELECT thread_id FROM runs
                           WHERE worker_id = holder AND status = 'running' AND run_id <> ALL(still_executed))
      ORDER BY thread_id
        FOR NO KEY UPDATE;
    FOR abandoned IN
        SELECT run_id, thread_id, cancel_action
          FROM runs
         WHERE worker_id = holder AND status = 'running' AND run_id <> ALL(still_executed)
           AND started_at <= clock_timestamp() - make_interval(secs => idle_s)
         ORDER BY run_id
           FOR UPDATE
    LOOP
        IF abandoned.cancel_action = 'rollback' THEN
            PERFORM end_rolled_back_run(abandoned.thread_id, abandoned.run_id);
            CONTINUE;
        END IF;
        UPDATE runs
           SET status = 'pending', worker_id = NULL, record_events = true, updated_at = clock_timestamp(),
               attempt = CASE WHEN count_attempt THEN attempt ELSE greatest(attempt - 1, 0) END
         WHERE run_id = abandoned.run_id;
        requeued := requeued + 1;
        PERFORM pg_notify('threadkeep', 'pending');
    END LOOP;
    RETURN requeued;
END
$$;

-- Return the project's runs of dead processes to the queue, or end them after the last attempt. Returns their ids. Every
-- process of the project does this for all graphs, because the queue gives a run to a process that serves its graph.
CREATE OR REPLACE FUNCTION recover_runs(of_project text, max_attempts int, failure jsonb) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
    held uuid[];
    orphan record;
BEGIN
    SELECT array_agg(thread_id) INTO held
      FROM (SELECT threads.thread_id
              FROM threads JOIN runs USING (thread_id)
             WHERE runs.project_id = of_project AND runs.status = 'running'
               AND NOT EXISTS (SELECT FROM workers WHERE workers.worker_id = runs.worker_id)
             ORDER BY threads.thread_id
               FOR NO KEY UPDATE OF threads SKIP LOCKED) AS locked;
    IF held IS NULL THEN
        RETURN;
    END IF;
    FOR orphan IN
        SELECT run_id, thread_id, attempt, cancel_action
          FROM runs
         WHERE thread_id = ANY(held) AND status = 'running'
           AND NOT EXISTS (SELECT FROM workers WHERE workers.worker_id = runs.worker_id)
         ORDER BY run_id
           FOR UPDATE
    LOOP
        IF orphan.cancel_action = 'rollback' THEN
            PERFORM end_rolled_back_run(orphan.thread_id, orphan.run_id);
        ELSIF orphan.attempt < max_attempts THEN
            UPDATE runs
               SET status = 'pending', worker_id = NULL, record_events = true, updated_at = clock_timestamp()
             WHERE run_id = orphan.run_id;
        ELSE
            UPDATE threads
               SET status = CASE WHEN EXISTS (SELECT FROM runs WHERE thread_id = orphan.thread_id AND status = 'pending')
                                 THEN 'busy' ELSE 'error' END,
                   error = failure, updated_at = clock_timestamp()
             WHERE thread_id = orphan.thread_id;
            UPDATE runs
               SET status = 'error', finished_at = clock_timestamp(), error = failure, worker_id = NULL, record_events = true,
                   updated_at = clock_timestamp()
             WHERE run_id = orphan.run_id;
            DELETE FROM run_undo_log WHERE run_id = orphan.run_id;
        END IF;
        PERFORM pg_notify('threadkeep', 'pending'), pg_notify('threadkeep', 'run:' || orphan.run_id);
        RETURN NEXT orphan.run_id;
    END LOOP;
END
$$;
