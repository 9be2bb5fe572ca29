-- Create runs of one project, and return each with its ordinal from 1. A run is `running` if a process can start it at once
-- and no other run executes or is due on its thread, else `pending`. With `new_thread_metadata` a missing thread is created.
-- With `new_thread_only` there is no run if the thread exists. If there is a run with this id, none is created, and
-- `active_run_id` is the id. The threads are locked until the transaction ends. With `skip_locked` a run is left out if another
-- transaction has locked its thread.
-- `restriction` has the row-level security settings for each run. It is empty for the server itself, and in a transaction that
-- has its settings already. All runs have the same role, because Postgres plans the statements of a function again after a
-- change of role. The role and the settings end with the transaction.
-- Each statement sees the rows that were committed before it, also during the wait for a lock. Postgres finds rows only by
-- key, even with a plan that was made while the tables were small (enable_seqscan), and does not plan statements anew for few
-- requests. Both settings hold for the functions below, which only this one calls.
CREATE OR REPLACE FUNCTION create_runs(
    requests jsonb[],
    restriction text[],
    skip_locked boolean
) RETURNS SETOF created_run LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    together created_run[] := '{}';
    request record;
    created created_run;
BEGIN
    IF cardinality(restriction) > 0 THEN
        PERFORM set_config('threadkeep.project', requests[1] ->> 'project_id', true),
                set_config('role', 'threadkeep_tenant', true);
    END IF;
    IF cardinality(requests) > 2 THEN -- for fewer, single statements cost less
        together := create_runs_on_new_threads(requests, restriction);
        RETURN QUERY SELECT * FROM unnest(together);
        IF cardinality(together) = cardinality(requests) THEN
            RETURN;
        END IF;
    END IF;
    FOR request IN
        SELECT *
          FROM run_requests(requests, restriction) AS every
         WHERE NOT EXISTS (SELECT FROM unnest(together) AS run WHERE run.ordinal = every.ordinal)
         ORDER BY ordinal -- runs of one thread keep their order
    LOOP
        IF request.match IS NOT NULL THEN
            PERFORM set_config('threadkeep.metadata_filter', request.match, true);
        END IF;
        created := create_run(
            request.ordinal, request.project_id, request.run_id, request.thread_id, request.assistant_id, request.graph_id,
            request.assistant_metadata, request.kwargs, request.principal, request.multitask_strategy, request.delay_s,
            request.ephemeral, request.synchronous_commit, request.worker_id, request.metadata_filter,
            request.new_thread_metadata, request.new_thread_only, request.ttl_strategy, request.ttl_minutes,
            request.ephemeral_s, request.metadata, request.record_events, skip_locked);
        CONTINUE WHEN created.thread_found IS NULL;
        RETURN NEXT created;
    END LOOP;
END
$$;

-- The requests to create runs as rows, each with its ordinal. They are JSON, because one document costs the client less than
-- an array for each field.
CREATE OR REPLACE FUNCTION run_requests(requests jsonb[], restriction text[]) RETURNS TABLE (
    ordinal int,
    match text,
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
    record_events boolean
) LANGUAGE sql STABLE AS $$
    SELECT each.ordinal::int, each.match, field.*
      FROM unnest(requests, restriction) WITH ORDINALITY AS each(request, match, ordinal),
           jsonb_to_record(each.request) AS field(
               project_id text, run_id uuid, thread_id uuid, assistant_id uuid, graph_id text,
               assistant_metadata jsonb, kwargs jsonb, principal jsonb, multitask_strategy text, delay_s float,
               ephemeral boolean, synchronous_commit boolean, worker_id uuid, metadata_filter jsonb,
               new_thread_metadata jsonb, new_thread_only boolean, ttl_strategy text, ttl_minutes float,
               ephemeral_s float, metadata jsonb, record_events boolean)
$$;

-- Create one run. `thread_found` is NULL if it is left out, because another transaction has locked the thread.
CREATE OR REPLACE FUNCTION create_run(
    ordinal int,
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
    skip_locked boolean
) RETURNS created_run LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    mark CONSTANT jsonb := jsonb_build_object('graph_id', graph_id, 'assistant_id', assistant_id);
    created created_run;
    thread_metadata jsonb;
    thread_is_followed boolean;
BEGIN
    created.ordinal := create_run.ordinal;
    created.thread_created := false;
    FOR _ IN 1 .. 3 LOOP -- a thread that exists at the insert may be deleted before it is locked
        IF new_thread_metadata IS NOT NULL THEN
            INSERT INTO threads (thread_id, project_id, status, metadata, ttl_strategy, ttl_minutes, ephemeral_until,
                                 first_message)
            VALUES (create_run.thread_id, create_run.project_id, 'busy', new_thread_metadata || mark,
                    create_run.ttl_strategy, create_run.ttl_minutes, now() + make_interval(secs => ephemeral_s),
                    CASE WHEN ephemeral_s IS NULL THEN first_human_message(create_run.kwargs -> 'input') END)
            ON CONFLICT (thread_id) DO NOTHING
            RETURNING threads.metadata, false INTO thread_metadata, thread_is_followed;
            created.thread_created := FOUND;
            EXIT WHEN created.thread_created;
        END IF;
        IF skip_locked AND is_locked_elsewhere(create_run.thread_id) THEN
            RETURN created;
        END IF;
        SELECT threads.metadata, coalesce(threads.record_events_until > now(), false)
          INTO thread_metadata, thread_is_followed
          FROM threads
         WHERE threads.thread_id = create_run.thread_id AND threads.project_id = create_run.project_id
           AND threads.metadata @> metadata_filter
           FOR NO KEY UPDATE;
        created.thread_found := FOUND;
        EXIT WHEN created.thread_found OR new_thread_metadata IS NULL;
    END LOOP;
    created.created_at := clock_timestamp(); -- not now(), because the lock may have taken time
    IF NOT created.thread_created THEN
        IF NOT created.thread_found OR new_thread_only THEN
            RETURN created;
        END IF;
        SELECT runs.run_id INTO created.active_run_id FROM runs WHERE runs.run_id = create_run.run_id;
        IF FOUND THEN
            RETURN created;
        END IF;
        SELECT runs.run_id INTO created.active_run_id
          FROM runs
         WHERE runs.thread_id = create_run.thread_id AND runs.status IN ('pending', 'running')
           AND runs.run_after <= created.created_at
         ORDER BY runs.queue_position
         LIMIT 1;
        IF created.active_run_id IS NOT NULL AND create_run.multitask_strategy = 'reject' THEN
            RETURN created;
        END IF;
        UPDATE threads
           SET status = 'busy', metadata = threads.metadata || mark, updated_at = created.created_at,
               first_message = coalesce(threads.first_message, first_human_message(create_run.kwargs -> 'input'))
         WHERE threads.thread_id = create_run.thread_id;
    END IF;
    created.thread_found := true;
    created.status := CASE WHEN create_run.worker_id IS NOT NULL AND created.active_run_id IS NULL THEN 'running'
                           ELSE 'pending' END;
    created.events_recorded := record_events OR created.status = 'pending' OR thread_is_followed;
    created.merged_metadata := assistant_metadata || thread_metadata || metadata || mark;
    INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, metadata, kwargs, principal,
                      multitask_strategy, attempt, worker_id, run_after, ephemeral, record_events, chain_id,
                      started_at, created_at, updated_at)
    VALUES (create_run.run_id, create_run.project_id, create_run.thread_id, create_run.assistant_id,
            create_run.graph_id, created.status, created.merged_metadata, create_run.kwargs, create_run.principal,
            create_run.multitask_strategy,
            CASE created.status WHEN 'running' THEN 1 ELSE 0 END,
            CASE created.status WHEN 'running' THEN create_run.worker_id END,
            created.created_at + make_interval(secs => delay_s), create_run.ephemeral, created.events_recorded,
            CASE WHEN created.merged_metadata -> 'chain' ->> 'run_id' = create_run.run_id::text
                 THEN (created.merged_metadata -> 'chain' ->> 'id')::uuid END,
            CASE created.status WHEN 'running' THEN created.created_at END,
            created.created_at, created.created_at);
    IF created.active_run_id IS NOT NULL AND create_run.multitask_strategy IN ('interrupt', 'rollback') THEN
        created.superseded_run_ids := cancel_superseded_runs(create_run.thread_id, create_run.run_id,
                                                             create_run.multitask_strategy);
    END IF;
    IF created.status = 'pending' THEN
        PERFORM pg_notify('threadkeep', 'pending');
    ELSIF NOT synchronous_commit THEN -- the client learns of the run only at its end, which is flushed
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF thread_is_followed THEN
        PERFORM pg_notify('threadkeep', 'thread:' || create_run.thread_id);
    END IF;
    RETURN created;
END
$$;

-- Create those of the runs whose threads do not exist yet, and their threads, by one statement each. A statement for each run
-- would cost more than the run. Of several runs of one thread, only the first is created. The rows are those of `create_run`.
-- The setting of row-level security changes from row to row: Postgres computes a row, inserts and checks it, and then
-- computes the next one.
CREATE OR REPLACE FUNCTION create_runs_on_new_threads(requests jsonb[], restriction text[]) RETURNS created_run[]
LANGUAGE plpgsql AS $$
DECLARE
    created_runs created_run[];
BEGIN
    WITH request AS (
        SELECT DISTINCT ON (thread_id) every.*,
               jsonb_build_object('graph_id', graph_id, 'assistant_id', assistant_id) AS mark
          FROM run_requests(requests, restriction) AS every
         WHERE new_thread_metadata IS NOT NULL
         ORDER BY thread_id, ordinal -- so that two processes with the same threads do not wait for each other
    ), thread AS (
        INSERT INTO threads (thread_id, project_id, status, metadata, ttl_strategy, ttl_minutes, ephemeral_until,
                             first_message)
        SELECT thread_id, project_id, 'busy', new_thread_metadata || mark, ttl_strategy, ttl_minutes,
               now() + make_interval(secs => ephemeral_s),
               CASE WHEN ephemeral_s IS NULL THEN first_human_message(kwargs -> 'input') END
          FROM request
         WHERE match IS NULL OR set_config('threadkeep.metadata_filter', match, true) IS NOT NULL
        ON CONFLICT (thread_id) DO NOTHING
        RETURNING thread_id, metadata
    )
    SELECT array_agg(ROW(
               request.ordinal,
               request.assistant_metadata || thread.metadata || request.metadata || request.mark,
               request.record_events OR request.worker_id IS NULL, true, true, NULL,
               CASE WHEN request.worker_id IS NULL THEN 'pending' ELSE 'running' END,
               clock_timestamp(), NULL)::created_run)
      INTO created_runs
      FROM thread JOIN request USING (thread_id);
    IF created_runs IS NULL THEN
        RETURN '{}';
    END IF;
    INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, metadata, kwargs, principal,
                      multitask_strategy, attempt, worker_id, run_after, ephemeral, record_events, chain_id,
                      started_at, created_at, updated_at)
    SELECT request.run_id, request.project_id, request.thread_id, request.assistant_id, request.graph_id,
           created.status, created.merged_metadata, request.kwargs, request.principal, request.multitask_strategy,
           CASE created.status WHEN 'running' THEN 1 ELSE 0 END, request.worker_id,
           created.created_at + make_interval(secs => request.delay_s), request.ephemeral, created.events_recorded,
           CASE WHEN created.merged_metadata -> 'chain' ->> 'run_id' = request.run_id::text
                THEN (created.merged_metadata -> 'chain' ->> 'id')::uuid END,
           CASE created.status WHEN 'running' THEN created.created_at END, created.created_at, created.created_at
      FROM unnest(created_runs) AS created,
           run_requests(requests[created.ordinal:created.ordinal], restriction[created.ordinal:created.ordinal]) AS request
     WHERE request.match IS NULL OR set_config('threadkeep.metadata_filter', request.match, true) IS NOT NULL;
    PERFORM pg_notify('threadkeep', 'pending')
      WHERE EXISTS (SELECT FROM unnest(created_runs) AS created WHERE created.status = 'pending');
    -- The client of such a run learns of it only at its end, which is flushed.
    PERFORM set_config('synchronous_commit', 'off', true)
       FROM unnest(created_runs) AS created
      WHERE created.status = 'running' AND NOT (requests[created.ordinal] ->> 'synchronous_commit')::boolean
      LIMIT 1;
    RETURN created_runs;
END
$$;

-- Try to lock a thread. True if another transaction has locked it. False also if the thread does not exist.
CREATE OR REPLACE FUNCTION is_locked_elsewhere(thread uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = thread FOR NO KEY UPDATE SKIP LOCKED;
    RETURN NOT FOUND AND EXISTS (SELECT FROM threads WHERE thread_id = thread);
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
