-- Finish a run that a process executes, and update its thread. False if another process owns the run. Without values the
-- thread's values do not change. If a rollback was requested meanwhile, the run is rolled back. In a batch it then returns
-- null and does nothing, because other statements of the batch still write for the run. So it does if another transaction has
-- locked the thread, because the other runs of the batch must not wait.
CREATE OR REPLACE FUNCTION finish_run(
    finished_run uuid,
    of_thread uuid,
    holder uuid,
    run_status text,
    thread_status text,
    thread_values json,
    thread_interrupts jsonb,
    failure jsonb,
    answer_keys jsonb,
    ephemeral_ttl_s float,
    notify_readers boolean,
    delete_run boolean,
    in_batch boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    requested_action text;
    is_owned boolean;
    is_busy boolean;
    has_no_title boolean;
    ended_at timestamptz;
BEGIN
    IF in_batch THEN
        SELECT first_message IS NULL AND ephemeral_until IS NULL INTO has_no_title
          FROM threads
         WHERE thread_id = of_thread
           FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN -- locked or deleted, which the run's own transaction finds out
            RETURN NULL;
        END IF;
    ELSE
        SELECT first_message IS NULL AND ephemeral_until IS NULL INTO has_no_title
          FROM threads
         WHERE thread_id = of_thread
           FOR NO KEY UPDATE;
    END IF;
    -- By the key alone. With the status in the condition, Postgres may read all running runs by one of the partial indexes.
    SELECT cancel_action, status = 'running' AND worker_id = holder INTO requested_action, is_owned
      FROM runs
     WHERE run_id = finished_run
       FOR NO KEY UPDATE;
    IF is_owned IS NOT TRUE OR NOT EXISTS (SELECT FROM crash_markers WHERE worker_id = holder) THEN
        RETURN false;
    END IF;
    IF requested_action = 'rollback' OR delete_run THEN
        IF in_batch THEN
            RETURN NULL;
        END IF;
        PERFORM end_rolled_back_run(of_thread, finished_run);
        RETURN true;
    END IF;
    ended_at := clock_timestamp();
    -- No other run of the thread is running. With `status = 'pending'`, Postgres may read the whole queue.
    is_busy := EXISTS (SELECT FROM runs
                        WHERE thread_id = of_thread AND status IN ('pending', 'running') AND run_id <> finished_run);
    IF has_no_title AND position('"messages"' IN thread_values::text) > 0 THEN
        -- A separate statement, because Postgres computes the title again in each statement that sets a part of it.
        UPDATE threads
           SET first_message = first_human_message_of_text(thread_values)
         WHERE thread_id = of_thread AND first_human_message_of_text(thread_values) IS NOT NULL;
    END IF;
    UPDATE threads
       SET status = CASE WHEN is_busy THEN 'busy' ELSE thread_status END,
           "values" = coalesce(thread_values, "values"),
           interrupts = thread_interrupts, error = failure, updated_at = ended_at, state_updated_at = ended_at,
           ephemeral_until = CASE WHEN ephemeral_ttl_s IS NULL THEN ephemeral_until
                                  ELSE greatest(ephemeral_until, ended_at + make_interval(secs => ephemeral_ttl_s)) END
     WHERE thread_id = of_thread;
    UPDATE runs -- last, because its webhook contains the thread's values
       SET status = run_status, error = failure, output_keys = answer_keys, finished_at = ended_at,
           updated_at = ended_at, worker_id = NULL
     WHERE run_id = finished_run;
    DELETE FROM run_undo_log WHERE run_id = finished_run;
    IF is_busy THEN
        PERFORM pg_notify('threadkeep', 'pending');
    END IF;
    IF notify_readers THEN
        PERFORM pg_notify('threadkeep', 'run:' || finished_run);
    END IF;
    RETURN true;
END
$$;

-- Finish several runs. Returns the results of finish_run by run.
CREATE OR REPLACE FUNCTION finish_runs(
    finished_runs uuid[],
    of_threads uuid[],
    holders uuid[],
    run_statuses text[],
    thread_statuses text[],
    thread_values json[],
    thread_interrupts jsonb[],
    failures jsonb[],
    answer_keys jsonb[],
    ephemeral_ttl_s float[],
    notify_readers boolean[],
    delete_run boolean[]
) RETURNS jsonb LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    results jsonb := '{}';
BEGIN
    FOR i IN 1 .. cardinality(finished_runs) LOOP
        results := results || jsonb_build_object(
            finished_runs[i],
            finish_run(finished_runs[i], of_threads[i], holders[i], run_statuses[i], thread_statuses[i],
                       thread_values[i], thread_interrupts[i], failures[i], answer_keys[i], ephemeral_ttl_s[i],
                       notify_readers[i], delete_run[i], true));
    END LOOP;
    RETURN results;
END
$$;

-- The answer of a run: the part of the thread's `state` that the run's `keys` select. A run that ended before its graph has
-- no keys. The keys of the thread's latest run that has some are used then.
CREATE OR REPLACE FUNCTION output_of(state json, keys jsonb, of_thread uuid) RETURNS json
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
BEGIN
    IF keys IS NULL THEN
        SELECT runs.output_keys INTO keys
          FROM runs
         WHERE runs.thread_id = of_thread AND runs.output_keys IS NOT NULL
         ORDER BY runs.queue_position DESC
         LIMIT 1;
    END IF;
    IF keys IS NULL OR jsonb_typeof(keys) = 'null' OR json_typeof(state) IS DISTINCT FROM 'object' THEN
        RETURN state;
    END IF;
    IF jsonb_typeof(keys) = 'string' THEN
        RETURN coalesce(state -> (keys #>> '{}'), 'null');
    END IF;
    RETURN (SELECT coalesce(json_object_agg(key, value), '{}') FROM json_each(state) WHERE keys ? key);
END
$$;
