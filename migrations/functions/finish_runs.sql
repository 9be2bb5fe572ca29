-- Finish runs that this process executes, and update their threads. Returns the result of each run by its id: true if it is
-- finished, false if another process owns it. Without values the thread's values do not change. If a rollback was requested
-- meanwhile, the run is rolled back.
-- In a batch, a run has the result null if another transaction has locked its thread, because the other runs must not wait. So
-- it has if it is to be rolled back, because other statements of the batch still write for it. Nothing is changed for it then.
-- Postgres finds rows only by key, even with a plan that was made while the tables were small: without the joins that read
-- whole tables. It does not plan statements anew for few runs (plan_cache_mode). The settings hold for the functions below.
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
    delete_run boolean[],
    in_batch boolean
) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    results jsonb := '{}';
BEGIN
    IF in_batch AND cardinality(finished_runs) > 2 THEN -- for fewer, single statements cost less
        RETURN finish_runs_together(finished_runs, of_threads, holders, run_statuses, thread_statuses, thread_values,
                                    thread_interrupts, failures, answer_keys, ephemeral_ttl_s, notify_readers, delete_run);
    END IF;
    FOR i IN 1 .. cardinality(finished_runs) LOOP
        results := results || jsonb_build_object(
            finished_runs[i],
            finish_run(finished_runs[i], of_threads[i], holders[i], run_statuses[i], thread_statuses[i],
                       thread_values[i], thread_interrupts[i], failures[i], answer_keys[i], ephemeral_ttl_s[i],
                       notify_readers[i], delete_run[i], in_batch));
    END LOOP;
    RETURN results;
END
$$;

-- Finish one run, and return its result.
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
    in_batch boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
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

-- Finish the runs of a batch by one statement for each table. A statement for each run would cost more than the run. The rows
-- and results are those of `finish_run`.
CREATE OR REPLACE FUNCTION finish_runs_together(
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
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    ended_at timestamptz;
    locked uuid[];
    untitled uuid[];
    finished int[];
    rolled_back int[];
    is_busy boolean;
BEGIN
    SELECT array_agg(thread_id), array_agg(thread_id) FILTER (WHERE has_no_title) INTO locked, untitled FROM (
        SELECT thread_id, first_message IS NULL AND ephemeral_until IS NULL AS has_no_title
          FROM threads
         WHERE thread_id = ANY (of_threads)
         ORDER BY thread_id
           FOR NO KEY UPDATE SKIP LOCKED
    ) AS free;
    -- By the key alone. With the status in the condition, Postgres may read all running runs by one of the partial indexes.
    SELECT array_agg(ordinal) FILTER (WHERE is_owned AND NOT is_rolled_back),
           array_agg(ordinal) FILTER (WHERE is_owned AND is_rolled_back)
      INTO finished, rolled_back
      FROM (
        SELECT ending.ordinal, runs.cancel_action IS NOT DISTINCT FROM 'rollback' OR ending.is_deleted AS is_rolled_back,
               runs.status = 'running' AND runs.worker_id = ending.holder
               AND EXISTS (SELECT FROM crash_markers WHERE crash_markers.worker_id = ending.holder) AS is_owned
          FROM unnest(finished_runs, of_threads, holders, delete_run) WITH ORDINALITY
            AS ending (run_id, thread_id, holder, is_deleted, ordinal)
          JOIN runs ON runs.run_id = ending.run_id
         WHERE ending.thread_id = ANY (locked)
         ORDER BY ending.run_id
           FOR NO KEY UPDATE OF runs
    ) AS ending;
    ended_at := clock_timestamp();
    IF untitled IS NOT NULL THEN
        -- A separate statement, because Postgres computes the title again in each statement that sets a part of it.
        UPDATE threads
           SET first_message = first_human_message_of_text(thread_values[ordinal])
          FROM unnest(finished) AS ordinal
         WHERE threads.thread_id = of_threads[ordinal] AND of_threads[ordinal] = ANY (untitled)
           AND first_human_message_of_text(thread_values[ordinal]) IS NOT NULL;
    END IF;
    WITH updated AS (
        UPDATE threads
           -- No other run of the thread is running. With `status = 'pending'`, Postgres may read the whole queue.
           SET status = CASE WHEN EXISTS (SELECT FROM runs
                                           WHERE runs.thread_id = threads.thread_id
                                             AND runs.status IN ('pending', 'running')
                                             AND runs.run_id <> finished_runs[ordinal]) THEN 'busy'
                             ELSE thread_statuses[ordinal] END,
               "values" = coalesce(thread_values[ordinal], threads."values"),
               interrupts = thread_interrupts[ordinal], error = failures[ordinal], updated_at = ended_at,
               state_updated_at = ended_at,
               ephemeral_until = CASE WHEN ephemeral_ttl_s[ordinal] IS NULL THEN threads.ephemeral_until
                                      ELSE greatest(threads.ephemeral_until,
                                                    ended_at + make_interval(secs => ephemeral_ttl_s[ordinal])) END
          FROM unnest(finished) AS ordinal
         WHERE threads.thread_id = of_threads[ordinal]
        RETURNING threads.status
    )
    SELECT bool_or(status = 'busy') INTO is_busy FROM updated;
    UPDATE runs -- last, because its webhook contains the thread's values
       SET status = run_statuses[ordinal], error = failures[ordinal], output_keys = answer_keys[ordinal],
           finished_at = ended_at, updated_at = ended_at, worker_id = NULL
      FROM unnest(finished) AS ordinal
     WHERE runs.run_id = finished_runs[ordinal];
    DELETE FROM run_undo_log WHERE run_id IN (SELECT finished_runs[ordinal] FROM unnest(finished) AS ordinal);
    IF is_busy THEN
        PERFORM pg_notify('threadkeep', 'pending');
    END IF;
    PERFORM pg_notify('threadkeep', 'run:' || finished_runs[ordinal])
       FROM unnest(finished) AS ordinal WHERE notify_readers[ordinal];
    RETURN (
        SELECT jsonb_object_agg(
                   finished_runs[ordinal],
                   CASE WHEN ordinal = ANY (finished) THEN true
                        WHEN ordinal = ANY (rolled_back) THEN NULL
                        WHEN of_threads[ordinal] = ANY (locked) THEN false END)
          FROM generate_subscripts(finished_runs, 1) AS ordinal);
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
