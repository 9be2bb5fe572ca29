-- Create a run on its thread. It is `running` if a process can start it at once and no other run executes or is due there,
-- else `pending`. With `new_thread_metadata` a missing thread is created. With `new_thread_only` there is no run if the thread
-- exists. The thread is locked until the transaction ends. If there is a run with this id, none is created, and
-- `active_run_id` is the id. In a batch it never waits for the thread: if another transaction has locked it, there is no run,
-- and `thread_found` is NULL.
-- Each statement sees the rows that were committed before it, also during the wait for the lock. Postgres finds rows only by
-- key, even with a plan that was made while the tables were small (enable_seqscan).
CREATE OR REPLACE FUNCTION create_run(
    project_id text,
    run_id uuid,
    thread_id uuid,
    assistant_id uuid,
    graph_id text,
    assistant_metadata jsonb,
    kwargs jsonb,
    principal jsonb,
    multitask_strategy text,
    delay_s float,
    ephemeral boolean,
    synchronous_commit boolean,
    worker_id uuid,
    metadata_filter jsonb,
    new_thread_metadata jsonb,
    new_thread_only boolean,
    ttl_strategy text,
    ttl_minutes float,
    ephemeral_s float,
    metadata jsonb,
    record_events boolean,
    in_batch boolean DEFAULT false,
    OUT merged_metadata jsonb,
    OUT events_recorded boolean,
    OUT thread_found boolean,
    OUT thread_created boolean,
    OUT active_run_id uuid,
    OUT status text,
    OUT created_at timestamptz,
    OUT superseded_run_ids uuid[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    mark CONSTANT jsonb := jsonb_build_object('graph_id', graph_id, 'assistant_id', assistant_id);
    thread_metadata jsonb;
    thread_is_followed boolean := false;
BEGIN
    thread_created := false;
    FOR _ IN 1 .. 3 LOOP -- a thread that exists at the insert may be deleted before it is locked
        IF new_thread_metadata IS NOT NULL THEN
            INSERT INTO threads (thread_id, project_id, status, metadata, ttl_strategy, ttl_minutes, ephemeral_until,
                                 first_message)
            VALUES (create_run.thread_id, create_run.project_id, 'busy', new_thread_metadata || mark,
                    create_run.ttl_strategy, create_run.ttl_minutes, now() + make_interval(secs => ephemeral_s),
                    CASE WHEN ephemeral_s IS NULL THEN first_human_message(create_run.kwargs -> 'input') END)
            ON CONFLICT (thread_id) DO NOTHING
            RETURNING threads.metadata, false INTO thread_metadata, thread_is_followed;
            thread_created := FOUND;
            EXIT WHEN thread_created;
        END IF;
        IF in_batch AND is_locked_elsewhere(create_run.thread_id) THEN
            thread_found := NULL;
            RETURN;
        END IF;
        SELECT threads.metadata, coalesce(threads.record_events_until > now(), false)
          INTO thread_metadata, thread_is_followed
          FROM threads
         WHERE threads.thread_id = create_run.thread_id AND threads.project_id = create_run.project_id
           AND threads.metadata @> metadata_filter
           FOR NO KEY UPDATE;
        thread_found := FOUND;
        EXIT WHEN thread_found OR new_thread_metadata IS NULL;
    END LOOP;
    created_at := clock_timestamp(); -- not now(), because the lock may have taken time
    IF NOT thread_created THEN
        IF NOT thread_found OR new_thread_only THEN
            RETURN;
        END IF;
        SELECT runs.run_id INTO active_run_id FROM runs WHERE runs.run_id = create_run.run_id;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT runs.run_id INTO active_run_id
          FROM runs
         WHERE runs.thread_id = create_run.thread_id AND runs.status IN ('pending', 'running')
           AND runs.run_after <= create_run.created_at
         ORDER BY runs.queue_position
         LIMIT 1;
        IF active_run_id IS NOT NULL AND create_run.multitask_strategy = 'reject' THEN
            RETURN;
        END IF;
        UPDATE threads
           SET status = 'busy', metadata = threads.metadata || mark, updated_at = create_run.created_at,
               first_message = coalesce(threads.first_message, first_human_message(create_run.kwargs -> 'input'))
         WHERE threads.thread_id = create_run.thread_id;
    END IF;
    thread_found := true;
    status := CASE WHEN create_run.worker_id IS NOT NULL AND active_run_id IS NULL THEN 'running' ELSE 'pending' END;
    events_recorded := record_events OR status = 'pending' OR thread_is_followed;
    merged_metadata := assistant_metadata || thread_metadata || metadata || mark;
    INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, metadata, kwargs, principal,
                      multitask_strategy, attempt, worker_id, run_after, ephemeral, record_events, chain_id,
                      started_at, created_at, updated_at)
    VALUES (create_run.run_id, create_run.project_id, create_run.thread_id, create_run.assistant_id,
            create_run.graph_id, create_run.status, merged_metadata, create_run.kwargs, create_run.principal,
            create_run.multitask_strategy,
            CASE create_run.status WHEN 'running' THEN 1 ELSE 0 END,
            CASE create_run.status WHEN 'running' THEN create_run.worker_id END,
            create_run.created_at + make_interval(secs => delay_s), create_run.ephemeral, events_recorded,
            CASE WHEN merged_metadata -> 'chain' ->> 'run_id' = create_run.run_id::text
                 THEN (merged_metadata -> 'chain' ->> 'id')::uuid END,
            CASE create_run.status WHEN 'running' THEN create_run.created_at END,
            create_run.created_at, create_run.created_at);
    IF active_run_id IS NOT NULL AND create_run.multitask_strategy IN ('interrupt', 'rollback') THEN
        superseded_run_ids := cancel_superseded_runs(create_run.thread_id, create_run.run_id,
                                                     create_run.multitask_strategy);
    END IF;
    IF status = 'pending' THEN
        PERFORM pg_notify('threadkeep', 'pending');
    ELSIF NOT synchronous_commit THEN -- the client learns of the run only at its end, which is flushed
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF thread_is_followed THEN
        PERFORM pg_notify('threadkeep', 'thread:' || create_run.thread_id);
    END IF;
END
$$;

-- Try to lock a thread. True if another transaction has locked it. False also if the thread does not exist.
CREATE OR REPLACE FUNCTION is_locked_elsewhere(thread uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = thread FOR NO KEY UPDATE SKIP LOCKED;
    RETURN NOT FOUND AND EXISTS (SELECT FROM threads WHERE thread_id = thread);
END
$$;

-- Create several runs of one project as `create_run` does, and return each with its ordinal from 1. A request is an object
-- with the arguments of `create_run`, because one JSON document costs the client less than twenty arrays. A run is left out
-- if another transaction has locked its thread. `restriction` has the row-level security settings for each run. It is empty
-- for the server itself. All runs have the same role, because Postgres plans the statements of a function again after a
-- change of role. The role and the settings end with the transaction.
CREATE OR REPLACE FUNCTION create_runs(
    requests jsonb[],
    restriction text[]
) RETURNS TABLE (
    ordinal int,
    merged_metadata jsonb,
    events_recorded boolean,
    thread_found boolean,
    thread_created boolean,
    active_run_id uuid,
    status text,
    created_at timestamptz,
    superseded_run_ids uuid[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    is_restricted CONSTANT boolean := cardinality(restriction) > 0;
BEGIN
    IF is_restricted THEN
        PERFORM set_config('threadkeep.project', requests[1] ->> 'project_id', true),
                set_config('role', 'threadkeep_tenant', true);
    END IF;
    FOR i IN 1 .. cardinality(requests) LOOP
        IF is_restricted THEN
            PERFORM set_config('threadkeep.metadata_filter', restriction[i], true);
        END IF;
        RETURN QUERY
        SELECT i, created.*
          FROM jsonb_to_record(requests[i]) AS r(
                   project_id text, run_id uuid, thread_id uuid, assistant_id uuid, graph_id text,
                   assistant_metadata jsonb, kwargs jsonb, principal jsonb, multitask_strategy text, delay_s float,
                   ephemeral boolean, synchronous_commit boolean, worker_id uuid, metadata_filter jsonb,
                   new_thread_metadata jsonb, new_thread_only boolean, ttl_strategy text, ttl_minutes float,
                   ephemeral_s float, metadata jsonb, record_events boolean),
               create_run(
                   r.project_id, r.run_id, r.thread_id, r.assistant_id, r.graph_id,
                   r.assistant_metadata, r.kwargs, r.principal, r.multitask_strategy, r.delay_s,
                   r.ephemeral, r.synchronous_commit, r.worker_id, r.metadata_filter,
                   r.new_thread_metadata, r.new_thread_only, r.ttl_strategy, r.ttl_minutes,
                   r.ephemeral_s, r.metadata, r.record_events, in_batch => true) AS created
         WHERE created.thread_found IS NOT NULL;
    END LOOP;
END
$$;

-- End the pending runs of a thread, and request the cancellation of its running runs, except for one run. Returns the
-- running ones.
CREATE OR REPLACE FUNCTION cancel_superseded_runs(of_thread uuid, by_run uuid, strategy text) RETURNS uuid[]
LANGUAGE plpgsql AS $$
DECLARE
    superseded record;
    running uuid[];
BEGIN
    FOR superseded IN
        UPDATE runs
           SET status        = CASE status WHEN 'pending' THEN 'interrupted' ELSE status END,
               finished_at   = CASE status WHEN 'pending' THEN clock_timestamp() END,
               cancel_action = strategy,
               cancel_reason = 'superseded by run ' || by_run,
               updated_at    = clock_timestamp()
         WHERE thread_id = of_thread AND run_id <> by_run AND status IN ('pending', 'running')
        RETURNING run_id, status = 'running' AS was_running, started_at IS NOT NULL AS began
    LOOP
        PERFORM pg_notify('threadkeep', 'cancel'), pg_notify('threadkeep', 'run:' || superseded.run_id);
        IF superseded.was_running THEN
            running := running || superseded.run_id;
        ELSIF strategy = 'rollback' THEN
            PERFORM delete_run_checkpoints(of_thread, superseded.run_id)
              WHERE superseded.began; -- an earlier attempt began, but its process died or stopped
            DELETE FROM runs WHERE run_id = superseded.run_id;
        ELSE
            DELETE FROM run_undo_log WHERE run_id = superseded.run_id;
        END IF;
    END LOOP;
    RETURN running;
END
$$;
