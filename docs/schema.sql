-- The tables of a migrated database: ours, the checkpointer's and the store's. Written by `make schema`.

CREATE DOMAIN cancel_action AS text
	CONSTRAINT cancel_action_check CHECK ((VALUE = ANY (ARRAY['interrupt'::text, 'rollback'::text])));

CREATE TYPE created_run AS (
	ordinal integer,
	merged_metadata jsonb,
	events_recorded boolean,
	thread_found boolean,
	thread_created boolean,
	active_run_id uuid,
	status text,
	created_at timestamp with time zone,
	superseded_run_ids uuid[]
);

CREATE DOMAIN jsonb_object AS jsonb
	CONSTRAINT jsonb_object_check CHECK ((jsonb_typeof(VALUE) = 'object'::text));

CREATE DOMAIN multitask_strategy AS text
	CONSTRAINT multitask_strategy_check CHECK ((VALUE = ANY (ARRAY['reject'::text, 'enqueue'::text, 'interrupt'::text, 'rollback'::text])));

CREATE DOMAIN run_status AS text
	CONSTRAINT run_status_check CHECK ((VALUE = ANY (ARRAY['pending'::text, 'running'::text, 'success'::text, 'error'::text, 'timeout'::text, 'interrupted'::text])));

CREATE DOMAIN thread_status AS text
	CONSTRAINT thread_status_check CHECK ((VALUE = ANY (ARRAY['idle'::text, 'busy'::text, 'interrupted'::text, 'error'::text])));

CREATE DOMAIN ttl_minutes AS double precision
	CONSTRAINT ttl_minutes_check CHECK ((VALUE > (0)::double precision));

CREATE DOMAIN ttl_strategy AS text
	CONSTRAINT ttl_strategy_check CHECK ((VALUE = ANY (ARRAY['delete'::text, 'keep_latest'::text])));

CREATE DOMAIN version_number AS integer
	CONSTRAINT version_number_check CHECK ((VALUE >= 1));

CREATE FUNCTION cancel_runs(of_project text, of_thread uuid, run_ids uuid[], statuses text[], action text, reason text, match jsonb) RETURNS TABLE(run_id uuid, was_running boolean)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION cancel_superseded_runs(of_thread uuid, by_run uuid, strategy text) RETURNS uuid[]
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION chain_state(run_status text, reason_of_cancel text, of_thread uuid, run_position bigint, thread_interrupts jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    AS $$
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

CREATE FUNCTION change_store_items(of_principal text, max_items bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('threadkeep store ' || of_principal, 0)),
            set_config('threadkeep.principal', of_principal, true),
            set_config('threadkeep.max_items', coalesce(max_items::text, ''), true);
END
$$;

CREATE FUNCTION check_leases(run_ids uuid[], worker_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION claim_run(claimer uuid, of_project text, served_graphs text[], positions_per_attempt integer, after_principal text, held_back text[]) RETURNS TABLE(run_id uuid, thread_id uuid, assistant_id uuid, graph_id text, metadata jsonb, kwargs jsonb, principal jsonb, attempt integer, worker_id uuid, ephemeral boolean, record_events boolean, start_position integer, waited_s double precision)
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    candidate uuid;
    due_by timestamptz;
BEGIN
    FOR _ IN 1 .. 10 LOOP
        due_by := clock_timestamp();
        SELECT runs.run_id INTO candidate
          FROM runs JOIN threads USING (thread_id)
         WHERE runs.project_id = of_project AND runs.status = 'pending' AND runs.run_after <= due_by
           AND runs.graph_id = ANY (served_graphs)
           AND coalesce(runs.principal ->> 'identity', '') > after_principal
           AND coalesce(runs.principal ->> 'identity', '') <> ALL (held_back)
           AND NOT EXISTS (
            SELECT FROM runs AS earlier
             WHERE earlier.thread_id = runs.thread_id
               AND (earlier.status = 'running'
                    OR (earlier.status = 'pending' AND earlier.run_after <= due_by
                        AND earlier.queue_position < runs.queue_position)))
         ORDER BY coalesce(runs.principal ->> 'identity', ''), runs.queue_position
         LIMIT 1
           FOR NO KEY UPDATE OF threads SKIP LOCKED;
        IF NOT FOUND THEN
            SELECT runs.run_id INTO candidate
              FROM runs JOIN threads USING (thread_id)
             WHERE runs.project_id = of_project AND runs.status = 'pending' AND runs.run_after <= due_by
               AND runs.graph_id = ANY (served_graphs)
               AND coalesce(runs.principal ->> 'identity', '') <= after_principal
               AND coalesce(runs.principal ->> 'identity', '') <> ALL (held_back)
               AND NOT EXISTS (
                SELECT FROM runs AS earlier
                 WHERE earlier.thread_id = runs.thread_id
                   AND (earlier.status = 'running'
                        OR (earlier.status = 'pending' AND earlier.run_after <= due_by
                            AND earlier.queue_position < runs.queue_position)))
             ORDER BY coalesce(runs.principal ->> 'identity', ''), runs.queue_position
             LIMIT 1
               FOR NO KEY UPDATE OF threads SKIP LOCKED;
        END IF;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        -- The thread is locked, so this statement sees the current state of its runs.
        RETURN QUERY
        UPDATE runs
           SET status = 'running', worker_id = claimer, attempt = attempt + 1, started_at = clock_timestamp(),
               updated_at = clock_timestamp()
         WHERE runs.run_id = candidate AND status = 'pending'
           AND NOT EXISTS (
            SELECT FROM runs AS earlier
             WHERE earlier.thread_id = runs.thread_id
               AND (earlier.status = 'running'
                    OR (earlier.status = 'pending' AND earlier.run_after <= due_by
                        AND earlier.queue_position < runs.queue_position)))
        RETURNING runs.run_id, runs.thread_id, assistant_id, graph_id, metadata::jsonb, kwargs::jsonb, principal, attempt,
                  worker_id, ephemeral, record_events,
                  coalesce((SELECT max(position) + positions_per_attempt
                              FROM run_events
                             WHERE run_events.run_id = runs.run_id),
                           CASE WHEN attempt > 1 THEN positions_per_attempt ELSE 0 END),
                  extract(epoch FROM due_by - run_after)::float;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION count_deleted_store_items() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public'
    AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT principal, count(*) AS items FROM old_items WHERE principal IS NOT NULL GROUP BY principal ORDER BY principal
    LOOP
        UPDATE store_item_counts SET items = items - gone.items WHERE principal = gone.principal;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION count_new_store_items() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public'
    AS $$
DECLARE
    max_items CONSTANT bigint := nullif(current_setting('threadkeep.max_items', true), '')::bigint;
    added     record;
    total     bigint;
BEGIN
    FOR added IN
        SELECT principal, count(*) AS items FROM new_items WHERE principal IS NOT NULL GROUP BY principal ORDER BY principal
    LOOP
        INSERT INTO store_item_counts AS counts (principal, items)
        VALUES (added.principal, added.items)
            ON CONFLICT (principal) DO UPDATE SET items = counts.items + EXCLUDED.items
        RETURNING items INTO total;
        IF total > max_items THEN
            RAISE EXCEPTION 'a principal has % items; at most % are allowed', total, max_items USING ERRCODE = 'TK003';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION create_run(ordinal integer, project_id text, run_id uuid, thread_id uuid, assistant_id uuid, graph_id text, assistant_metadata jsonb, kwargs jsonb, principal jsonb, multitask_strategy text, delay_s double precision, ephemeral boolean, synchronous_commit boolean, worker_id uuid, metadata_filter jsonb, new_thread_metadata jsonb, new_thread_only boolean, ttl_strategy text, ttl_minutes double precision, ephemeral_s double precision, metadata jsonb, record_events boolean, skip_locked boolean) RETURNS created_run
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION create_runs(requests jsonb[], restriction text[], skip_locked boolean) RETURNS SETOF created_run
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION create_runs_on_new_threads(requests jsonb[], restriction text[]) RETURNS created_run[]
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION delete_expired_store_items(max_items integer) RETURNS integer
    LANGUAGE plpgsql
    AS $$
DECLARE
    of_principal text;
    deleted      int;
BEGIN
    SELECT principal INTO of_principal FROM store WHERE expires_at < now() ORDER BY expires_at LIMIT 1;
    IF of_principal IS NOT NULL THEN
        PERFORM change_store_items(of_principal, NULL);
    END IF;
    DELETE FROM store
     WHERE (prefix, key) IN (
        SELECT prefix, key FROM store
         WHERE expires_at < now() AND principal IS NOT DISTINCT FROM of_principal
         ORDER BY expires_at
         LIMIT max_items
           FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

CREATE FUNCTION delete_run_checkpoints(of_thread uuid, of_run uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
DECLARE
    thread CONSTANT text := of_thread;
BEGIN
    DELETE FROM checkpoints WHERE thread_id = thread AND metadata ->> 'run_id' = of_run::text;
    DELETE FROM checkpoint_writes AS written
     USING run_undo_log AS undo
     WHERE undo.run_id = of_run AND written.thread_id = thread AND written.checkpoint_ns = undo.checkpoint_ns
       AND written.checkpoint_id = undo.checkpoint_id AND written.task_id = undo.task_id AND written.idx = undo.idx;
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
    SELECT thread, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path
      FROM run_undo_log
     WHERE run_id = of_run AND existed;
    DELETE FROM run_undo_log WHERE run_id = of_run;
    -- Writes of the deleted checkpoints, and of checkpoints that were never written.
    DELETE FROM checkpoint_writes
     WHERE thread_id = thread
       AND (checkpoint_ns, checkpoint_id) NOT IN (
        SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = thread);
    DELETE FROM checkpoint_blobs -- NOT IN is hashed, even if the planner expects few rows for this thread
     WHERE thread_id = thread
       AND (checkpoint_ns, channel, version) NOT IN (
        SELECT checkpoint_ns, held.channel, held.version
          FROM checkpoints, jsonb_each_text(checkpoint -> 'channel_versions') AS held (channel, version)
         WHERE thread_id = thread AND held.version IS NOT NULL);
END
$$;

CREATE FUNCTION delete_threads(of_project text, thread_ids uuid[], match jsonb) RETURNS SETOF uuid
    LANGUAGE plpgsql
    AS $$
DECLARE
    held uuid[];
BEGIN
    SELECT array_agg(thread_id) INTO held
      FROM (SELECT thread_id
              FROM threads
             WHERE thread_id = ANY(thread_ids) AND project_id = of_project AND metadata @> match
             ORDER BY thread_id
               FOR UPDATE) AS locked;
    IF held IS NULL THEN
        RETURN;
    END IF;
    PERFORM FROM runs WHERE thread_id = ANY(held) ORDER BY run_id FOR UPDATE;
    PERFORM pg_notify('threadkeep', 'run:' || run_id),
            CASE WHEN status = 'running' THEN pg_notify('threadkeep', 'cancel') END
       FROM runs
      WHERE thread_id = ANY(held) AND status IN ('pending', 'running');
    DELETE FROM checkpoints WHERE thread_id = ANY(held::text[]);
    DELETE FROM checkpoint_blobs WHERE thread_id = ANY(held::text[]);
    DELETE FROM checkpoint_writes WHERE thread_id = ANY(held::text[]);
    DELETE FROM webhook_deliveries WHERE thread_id = ANY(held);
    DELETE FROM threads WHERE thread_id = ANY(held);
    RETURN QUERY SELECT unnest(held);
END
$$;

CREATE FUNCTION enable_row_level_security() RETURNS void
    LANGUAGE plpgsql
    AS $_$
DECLARE
    own       CONSTANT text := $e$project_id = current_setting('threadkeep.project', true)
 AND metadata @> nullif(current_setting('threadkeep.metadata_filter', true), '')::jsonb$e$;
    in_thread CONSTANT text := $e$EXISTS (SELECT FROM threads
 WHERE threads.thread_id = CASE WHEN %1$s.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                                THEN %1$s.thread_id::uuid END)$e$;
    in_space  CONSTANT text := $e$prefix ~>=~ current_setting('threadkeep.store_prefix_from', true)
 AND prefix ~<~ current_setting('threadkeep.store_prefix_to', true)$e$;
    own_tables CONSTANT text[] := ARRAY[
        'threads', 'runs', 'run_events', 'run_undo_log', 'assistants', 'assistant_versions', 'crons', 'checkpoints',
        'checkpoint_blobs', 'checkpoint_writes', 'store', 'store_vectors', 'task_pushes',
        -- Tables without policies, because requests also write rows without an owner. Requests can't read API keys.
        'idempotency_keys', 'webhook_deliveries', 'workers', 'crash_markers'];
    policy    record;
    relation  regclass;
BEGIN
    IF to_regrole('threadkeep_tenant') IS NULL THEN
        BEGIN
            CREATE ROLE threadkeep_tenant NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- the migration of another database was quicker
            WHEN insufficient_privilege THEN RETURN;
        END;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        BEGIN
            EXECUTE format('GRANT threadkeep_tenant TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error THEN NULL; -- another role may have granted it
        END;
    END IF;
    IF NOT has_schema_privilege('threadkeep_tenant', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO threadkeep_tenant', current_schema());
    END IF;
    FOR relation IN
        SELECT oid::regclass
          FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(own_tables)
           AND NOT has_table_privilege('threadkeep_tenant', oid, 'DELETE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO threadkeep_tenant', relation);
    END LOOP;

    FOR policy IN
        SELECT pg_class.oid::regclass AS relation, wanted.policy_name, wanted.command, wanted.seen,
               coalesce(wanted.written, wanted.seen) AS written, relrowsecurity,
               md5(concat_ws('|', 'restrictive', wanted.command, wanted.seen, wanted.written)) AS definition
          FROM (VALUES ('threads', 'tenant', 'ALL', own, NULL),
                       ('assistants', 'tenant_select', 'SELECT',
                        format('(%s) OR is_system AND project_id = %s', own,
                               $e$current_setting('threadkeep.project', true)$e$), NULL),
                       ('assistants', 'tenant_insert', 'INSERT', own, NULL),
                       ('assistants', 'tenant_update', 'UPDATE', own, NULL),
                       ('assistants', 'tenant_delete', 'DELETE', own, NULL),
                       ('assistant_versions', 'tenant', 'ALL',
                        $e$EXISTS (SELECT FROM assistants
 WHERE assistants.project_id = assistant_versions.project_id
   AND assistants.assistant_id = assistant_versions.assistant_id)$e$,
                        own),
                       ('crons', 'tenant', 'ALL', own, NULL),
                       ('runs', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM threads WHERE threads.thread_id = runs.thread_id)', NULL),
                       ('task_pushes', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM threads WHERE threads.thread_id = task_pushes.thread_id)', NULL),
                       ('run_events', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM runs WHERE runs.run_id = run_events.run_id)', NULL),
                       ('run_undo_log', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM runs WHERE runs.run_id = run_undo_log.run_id)', NULL),
                       -- A copy inserts the thread and its checkpoints in one statement, which can't see either yet.
                       ('checkpoints', 'tenant', 'ALL', format(in_thread, 'checkpoints'), 'true'),
                       ('checkpoint_blobs', 'tenant', 'ALL', format(in_thread, 'checkpoint_blobs'), 'true'),
                       ('checkpoint_writes', 'tenant', 'ALL', format(in_thread, 'checkpoint_writes'), 'true'),
                       ('store', 'tenant', 'ALL', in_space, NULL),
                       ('store_vectors', 'tenant', 'ALL', in_space, NULL))
            AS wanted (name, policy_name, command, seen, written)
          JOIN pg_class ON pg_class.relname = wanted.name AND relnamespace = current_schema()::regnamespace
    LOOP
        IF NOT policy.relrowsecurity THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', policy.relation);
        END IF;
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_policy
             WHERE polrelid = policy.relation AND polname = policy.policy_name
               AND obj_description(oid, 'pg_policy') = policy.definition);
        EXECUTE format('DROP POLICY IF EXISTS %I ON %s', policy.policy_name, policy.relation);
        EXECUTE concat_ws(
            ' ', format('CREATE POLICY %I ON %s AS RESTRICTIVE', policy.policy_name, policy.relation),
            format('FOR %s TO threadkeep_tenant', policy.command),
            CASE WHEN policy.command <> 'INSERT' THEN format('USING (%s)', policy.seen) END,
            CASE WHEN policy.command NOT IN ('SELECT', 'DELETE') THEN format('WITH CHECK (%s)', policy.written) END);
        EXECUTE format('COMMENT ON POLICY %I ON %s IS %L', policy.policy_name, policy.relation, policy.definition);
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = policy.relation AND polname = 'everybody') THEN
            EXECUTE format('CREATE POLICY everybody ON %s USING (true) WITH CHECK (true)', policy.relation);
        END IF;
    END LOOP;
END
$_$;

CREATE FUNCTION end_rolled_back_run(of_thread uuid, of_run uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM delete_run_checkpoints(of_thread, of_run);
    UPDATE threads
       SET status = CASE WHEN EXISTS (SELECT FROM runs
                                       WHERE runs.thread_id = of_thread AND run_id <> of_run
                                         AND runs.status IN ('pending', 'running')) THEN 'busy'
                         WHEN interrupts <> '{}' THEN 'interrupted'
                         WHEN error IS NOT NULL THEN 'error' ELSE 'idle' END,
           updated_at = clock_timestamp()
     WHERE thread_id = of_thread;
    UPDATE runs -- for its webhook
       SET status = 'interrupted', finished_at = clock_timestamp(), updated_at = clock_timestamp(), worker_id = NULL
     WHERE run_id = of_run AND finished_at IS NULL;
    DELETE FROM runs WHERE run_id = of_run;
    PERFORM pg_notify('threadkeep', 'pending'), pg_notify('threadkeep', 'run:' || of_run);
END
$$;

CREATE FUNCTION enqueue_task_pushes(of_run uuid, only_config text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, config_id, thread_id, project_id, principal, url, body)
    SELECT runs.run_id, config_id, runs.thread_id, runs.project_id, task_pushes.principal, url,
           jsonb_build_object(
               'chain_id', runs.chain_id,
               'protocol', protocol,
               'state', chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts),
               'updated_at', runs.updated_at,
               'interrupts', threads.interrupts,
               'values', CASE WHEN NOT coalesce(kwargs -> 'stream_mode' ? 'messages-tuple', false)
                              THEN output_of(threads."values", output_keys, runs.thread_id)::jsonb END)
      FROM runs JOIN threads USING (thread_id) JOIN task_pushes USING (chain_id)
     WHERE runs.run_id = of_run AND runs.finished_at IS NOT NULL
       AND (only_config IS NULL OR config_id = only_config)
       AND NOT EXISTS (SELECT FROM runs AS later
                        WHERE later.chain_id = runs.chain_id AND later.queue_position > runs.queue_position)
    ON CONFLICT (run_id, config_id) DO UPDATE SET body = EXCLUDED.body, attempt = 0, send_after = now();
    IF FOUND THEN
        PERFORM pg_notify('threadkeep', 'webhook');
    END IF;
END
$$;

CREATE FUNCTION enqueue_webhook() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, thread_id, project_id, principal, url, body)
    SELECT NEW.run_id,
           NEW.thread_id,
           NEW.project_id,
           coalesce(NEW.principal ->> 'identity', ''),
           NEW.kwargs ->> 'webhook',
           jsonb_build_object(
               'run_id', NEW.run_id,
               'thread_id', NEW.thread_id,
               'assistant_id', NEW.assistant_id,
               'metadata', NEW.metadata,
               'status', NEW.status,
               'kwargs', NEW.kwargs,
               'multitask_strategy', NEW.multitask_strategy,
               'created_at', NEW.created_at,
               'updated_at', NEW.updated_at,
               'run_started_at', NEW.started_at,
               'run_ended_at', NEW.finished_at,
               'values', output_of(threads."values", NEW.output_keys, NEW.thread_id)
           ) || CASE WHEN NEW.error IS NULL THEN '{}'::jsonb ELSE jsonb_build_object('error', NEW.error) END
      FROM threads
     WHERE threads.thread_id = NEW.thread_id
    ON CONFLICT (run_id, config_id) DO NOTHING;
    PERFORM pg_notify('threadkeep', 'webhook');
    RETURN NULL;
END
$$;

CREATE FUNCTION finish_run(finished_run uuid, of_thread uuid, holder uuid, run_status text, thread_status text, thread_values json, thread_interrupts jsonb, failure jsonb, answer_keys jsonb, ephemeral_ttl_s double precision, notify_readers boolean, delete_run boolean, in_batch boolean) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION finish_runs(finished_runs uuid[], of_threads uuid[], holders uuid[], run_statuses text[], thread_statuses text[], thread_values json[], thread_interrupts jsonb[], failures jsonb[], answer_keys jsonb[], ephemeral_ttl_s double precision[], notify_readers boolean[], delete_run boolean[], in_batch boolean) RETURNS jsonb
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION finish_runs_together(finished_runs uuid[], of_threads uuid[], holders uuid[], run_statuses text[], thread_statuses text[], thread_values json[], thread_interrupts jsonb[], failures jsonb[], answer_keys jsonb[], ephemeral_ttl_s double precision[], notify_readers boolean[], delete_run boolean[]) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION first_human_message(state jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS $_$
DECLARE
    messages CONSTANT jsonb := CASE jsonb_typeof(state) WHEN 'object' THEN state -> 'messages' END;
    message jsonb;
    words text;
BEGIN
    IF messages IS NULL OR jsonb_typeof(messages) <> 'array' THEN
        RETURN NULL;
    END IF;
    FOR place IN 0 .. least(jsonb_array_length(messages), 20) - 1 LOOP
        message := messages -> place;
        CONTINUE WHEN jsonb_typeof(message) <> 'object'
                   OR coalesce(message ->> 'type', message ->> 'role', '') NOT IN ('human', 'user');
        words := CASE jsonb_typeof(message -> 'content')
                 WHEN 'string' THEN message ->> 'content'
                 WHEN 'array' THEN
                     jsonb_path_query_first(message -> 'content', '$[*] ? (@.type == "text").text') #>> '{}'
                 END;
        words := left(btrim(translate(left(words, 1000), E'\n\r\t', '   ')), 120);
        IF words <> '' THEN
            RETURN words;
        END IF;
    END LOOP;
    RETURN NULL;
END
$_$;

CREATE FUNCTION first_human_message_of_text(state json) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS $$
BEGIN
    IF state IS NULL OR position('"messages"' IN state::text) = 0 THEN
        RETURN NULL;
    END IF;
    RETURN first_human_message(state::jsonb);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

CREATE FUNCTION forget_store_item_counts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public'
    AS $$
BEGIN
    DELETE FROM store_item_counts;
    RETURN NULL;
END
$$;

CREATE FUNCTION is_locked_elsewhere(thread uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = thread FOR NO KEY UPDATE SKIP LOCKED;
    RETURN NOT FOUND AND EXISTS (SELECT FROM threads WHERE thread_id = thread);
END
$$;

CREATE TABLE run_undo_log (
    run_id uuid NOT NULL,
    checkpoint_ns text NOT NULL,
    checkpoint_id text NOT NULL,
    task_id text NOT NULL,
    idx integer NOT NULL,
    existed boolean NOT NULL,
    channel text,
    type text,
    blob bytea,
    task_path text
);

COMMENT ON TABLE run_undo_log IS 'rows of checkpoint_writes before a run changed those of an earlier run';

COMMENT ON COLUMN run_undo_log.existed IS 'false: there was no such row, and a rollback deletes it';

CREATE FUNCTION log_undo(entries run_undo_log[]) RETURNS void
    LANGUAGE sql
    AS $$
    INSERT INTO run_undo_log SELECT * FROM unnest(entries) ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION output_of(state json, keys jsonb, of_thread uuid) RETURNS json
    LANGUAGE plpgsql STABLE
    SET enable_seqscan TO 'off'
    AS $$
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

CREATE FUNCTION push_finished_task() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM enqueue_task_pushes(NEW.run_id);
    RETURN NULL;
END
$$;

CREATE FUNCTION recover_runs(of_project text, max_attempts integer, failure jsonb) RETURNS SETOF uuid
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION requeue_runs(holder uuid, still_executed uuid[], idle_s double precision, count_attempt boolean) RETURNS integer
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION rollback_run(of_thread uuid, of_run uuid, holder uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = of_thread FOR NO KEY UPDATE;
    PERFORM FROM runs WHERE run_id = of_run AND status = 'running' AND worker_id = holder FOR UPDATE;
    IF NOT FOUND OR NOT EXISTS (SELECT FROM crash_markers WHERE worker_id = holder) THEN
        RETURN false;
    END IF;
    PERFORM delete_run_checkpoints(of_thread, of_run);
    RETURN true;
END
$$;

CREATE FUNCTION run_requests(requests jsonb[], restriction text[]) RETURNS TABLE(ordinal integer, match text, project_id text, run_id uuid, thread_id uuid, assistant_id uuid, graph_id text, assistant_metadata jsonb, kwargs jsonb, principal jsonb, multitask_strategy text, delay_s double precision, ephemeral boolean, synchronous_commit boolean, worker_id uuid, metadata_filter jsonb, new_thread_metadata jsonb, new_thread_only boolean, ttl_strategy text, ttl_minutes double precision, ephemeral_s double precision, metadata jsonb, record_events boolean)
    LANGUAGE sql STABLE
    AS $$
    SELECT each.ordinal::int, each.match, field.*
      FROM unnest(requests, restriction) WITH ORDINALITY AS each(request, match, ordinal),
           jsonb_to_record(each.request) AS field(
               project_id text, run_id uuid, thread_id uuid, assistant_id uuid, graph_id text,
               assistant_metadata jsonb, kwargs jsonb, principal jsonb, multitask_strategy text, delay_s float,
               ephemeral boolean, synchronous_commit boolean, worker_id uuid, metadata_filter jsonb,
               new_thread_metadata jsonb, new_thread_only boolean, ttl_strategy text, ttl_minutes float,
               ephemeral_s float, metadata jsonb, record_events boolean)
$$;

CREATE FUNCTION seconds_to_next_run(of_project text, served_graphs text[], held_back text[], held_s double precision) RETURNS double precision
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    due_by CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF EXISTS (
        SELECT FROM runs
         WHERE project_id = of_project AND status = 'pending' AND run_after <= due_by AND graph_id = ANY (served_graphs)
           AND coalesce(principal ->> 'identity', '') <> ALL (held_back)
           AND NOT EXISTS (
            SELECT FROM runs AS earlier
             WHERE earlier.thread_id = runs.thread_id
               AND (earlier.status = 'running'
                    OR (earlier.status = 'pending' AND earlier.run_after <= due_by
                        AND earlier.queue_position < runs.queue_position))))
    THEN
        RETURN held_s;
    END IF;
    RETURN (SELECT extract(epoch FROM min(run_after) - due_by)
              FROM runs
             WHERE project_id = of_project AND status = 'pending' AND run_after > due_by
               AND graph_id = ANY (served_graphs));
END
$$;

CREATE FUNCTION set_thread_expiry() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.expires_at := NEW.updated_at + make_interval(secs => NEW.ttl_minutes * 60);
    RETURN NEW;
END
$$;

CREATE TABLE api_keys (
    key_id uuid NOT NULL,
    secret_sha256 bytea NOT NULL,
    prefix text NOT NULL,
    name text NOT NULL,
    identity text NOT NULL,
    scopes text[] DEFAULT '{}'::text[] NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    CONSTRAINT api_keys_identity_check CHECK ((identity <> ''::text)),
    CONSTRAINT api_keys_secret_sha256_check CHECK ((octet_length(secret_sha256) = 32))
);

COMMENT ON COLUMN api_keys.prefix IS 'the first characters of the secret, to tell keys apart';

COMMENT ON COLUMN api_keys.scopes IS 'auth events such as threads.read or threads.*; empty: all';

CREATE TABLE assistant_versions (
    project_id text NOT NULL,
    assistant_id uuid NOT NULL,
    version version_number NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb_object NOT NULL,
    context jsonb_object NOT NULL,
    metadata jsonb_object NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE assistants (
    project_id text NOT NULL,
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    version version_number DEFAULT 1 NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    context jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    metadata jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    is_system boolean DEFAULT false NOT NULL,
    principal text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON COLUMN assistants.is_system IS 'the server created it for its graph: every caller may read and run it';

COMMENT ON COLUMN assistants.principal IS 'identity of its creator, for the cap of each principal; NULL if authentication was off; no API shows it';

CREATE TABLE checkpoint_blobs (
    thread_id text NOT NULL,
    checkpoint_ns text DEFAULT ''::text NOT NULL,
    channel text NOT NULL,
    version text NOT NULL,
    type text NOT NULL,
    blob bytea
);

CREATE TABLE checkpoint_migrations (
    v integer NOT NULL
);

CREATE TABLE checkpoint_writes (
    thread_id text NOT NULL,
    checkpoint_ns text DEFAULT ''::text NOT NULL,
    checkpoint_id text NOT NULL,
    task_id text NOT NULL,
    idx integer NOT NULL,
    channel text NOT NULL,
    type text,
    blob bytea NOT NULL,
    task_path text DEFAULT ''::text NOT NULL
);

CREATE TABLE checkpoints (
    thread_id text NOT NULL,
    checkpoint_ns text DEFAULT ''::text NOT NULL,
    checkpoint_id text NOT NULL,
    parent_checkpoint_id text,
    type text,
    checkpoint jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL
);

CREATE UNLOGGED TABLE crash_markers (
    worker_id uuid NOT NULL
);

COMMENT ON TABLE crash_markers IS 'one row for each process: Postgres has not crashed since the process took its lease';

CREATE TABLE crons (
    cron_id uuid NOT NULL,
    project_id text NOT NULL,
    assistant_id uuid NOT NULL,
    thread_id uuid,
    schedule text NOT NULL,
    timezone text,
    payload jsonb_object NOT NULL,
    metadata jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    principal jsonb,
    metadata_filter jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    on_run_completed text,
    end_time timestamp with time zone,
    enabled boolean DEFAULT true NOT NULL,
    next_run_date timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT cron_has_thread_or_completion_policy CHECK (((thread_id IS NULL) = (on_run_completed IS NOT NULL))),
    CONSTRAINT crons_on_run_completed_check CHECK ((on_run_completed = ANY (ARRAY['delete'::text, 'keep'::text])))
);

COMMENT ON COLUMN crons.principal IS 'the user of its runs';

COMMENT ON COLUMN crons.metadata_filter IS 'the metadata that a thread must have for its runs: its owner''s permissions';

COMMENT ON COLUMN crons.next_run_date IS 'the next time to start a run; the same transaction starts the run and moves this time on';

CREATE TABLE idempotency_keys (
    project_id text NOT NULL,
    principal text NOT NULL,
    key text NOT NULL,
    request_sha256 bytea NOT NULL,
    thread_ids uuid[] NOT NULL,
    result_ids uuid[] NOT NULL,
    completed boolean DEFAULT false NOT NULL,
    reservation_id uuid NOT NULL,
    worker_id uuid NOT NULL,
    reserved_until timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

COMMENT ON COLUMN idempotency_keys.principal IS 'identity of the caller; empty if authentication is off';

COMMENT ON COLUMN idempotency_keys.request_sha256 IS 'of method, path and body';

COMMENT ON COLUMN idempotency_keys.result_ids IS 'of the runs or the cron that the request creates, in order; empty for a thread';

COMMENT ON COLUMN idempotency_keys.completed IS 'set in the transaction that creates the rows with these ids';

COMMENT ON COLUMN idempotency_keys.worker_id IS 'the process that handles the request; if it is dead, another process may';

CREATE TABLE run_events (
    run_id uuid NOT NULL,
    "position" integer NOT NULL,
    event text NOT NULL,
    data text NOT NULL
);

CREATE TABLE runs (
    run_id uuid NOT NULL,
    project_id text NOT NULL,
    queue_position bigint NOT NULL,
    thread_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    status run_status NOT NULL,
    metadata jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    kwargs jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    principal jsonb,
    multitask_strategy multitask_strategy DEFAULT 'enqueue'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    worker_id uuid,
    run_after timestamp with time zone DEFAULT now() NOT NULL,
    ephemeral boolean DEFAULT false NOT NULL,
    record_events boolean DEFAULT true NOT NULL,
    deleted_events_until integer,
    cancel_action cancel_action,
    cancel_reason text,
    error jsonb,
    output_keys jsonb,
    chain_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT finished_run_has_end CHECK ((((status)::text = ANY (ARRAY['pending'::text, 'running'::text])) = (finished_at IS NULL))),
    CONSTRAINT running_run_has_worker CHECK ((((status)::text = 'running'::text) = (worker_id IS NOT NULL)))
);

COMMENT ON COLUMN runs.principal IS 'the user that requested it, as graphs see it; no API shows it';

COMMENT ON COLUMN runs.ephemeral IS 'the thread is deleted with it: a stateless run whose on_completion is delete';

COMMENT ON COLUMN runs.record_events IS 'its events are written to run_events';

COMMENT ON COLUMN runs.deleted_events_until IS 'its events up to this position were deleted; NULL: none were';

COMMENT ON COLUMN runs.output_keys IS 'the keys of the thread''s values that it answers with (an array), or the one key whose value it answers with (a string); JSON null: all; NULL: its graph did not finish';

COMMENT ON COLUMN runs.chain_id IS 'id of the first run of its chain; NULL: it is in no chain';

ALTER TABLE runs ALTER COLUMN queue_position ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME runs_queue_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE sealing_keys (
    project_id text NOT NULL,
    purpose text NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT sealing_keys_key_check CHECK ((octet_length(key) >= 32))
);

COMMENT ON COLUMN sealing_keys.purpose IS 'the kind of data that it seals: a key has one purpose';

CREATE TABLE store (
    prefix text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamp with time zone,
    ttl_minutes integer,
    principal text DEFAULT NULLIF(current_setting('threadkeep.principal'::text, true), ''::text)
);

COMMENT ON COLUMN store.principal IS 'identity that put the item first; NULL if authentication was off; in no column that an API shows';

CREATE TABLE store_item_counts (
    principal text NOT NULL,
    items bigint NOT NULL
);

COMMENT ON TABLE store_item_counts IS 'store items of all projects by the identity that first put them';

CREATE TABLE store_migrations (
    v integer NOT NULL
);

CREATE TABLE task_pushes (
    chain_id uuid NOT NULL,
    config_id text NOT NULL,
    project_id text NOT NULL,
    thread_id uuid NOT NULL,
    protocol text NOT NULL,
    url text NOT NULL,
    token text,
    scheme text,
    credentials text,
    principal text DEFAULT ''::text NOT NULL
);

COMMENT ON TABLE task_pushes IS 'push notification configs of A2A';

COMMENT ON COLUMN task_pushes.protocol IS 'version of the protocol of the notifications';

COMMENT ON COLUMN task_pushes.principal IS 'identity of its creator, and only the creator may read the secrets; empty if authentication is off';

CREATE TABLE threadkeep_functions (
    name text NOT NULL,
    checksum text NOT NULL,
    release text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE threadkeep_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE threads (
    thread_id uuid NOT NULL,
    project_id text NOT NULL,
    status thread_status DEFAULT 'idle'::text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    "values" json,
    interrupts jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    error jsonb,
    first_message text,
    title text GENERATED ALWAYS AS ("left"(COALESCE(NULLIF((metadata ->> 'title'::text), ''::text), first_message), 120)) STORED,
    ttl_strategy ttl_strategy,
    ttl_minutes ttl_minutes,
    expires_at timestamp with time zone,
    ttl_pruned_at timestamp with time zone,
    ephemeral_until timestamp with time zone,
    record_events_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    state_updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT threads_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT ttl_has_strategy_and_minutes CHECK (((ttl_strategy IS NULL) = (ttl_minutes IS NULL)))
)
WITH (fillfactor='40');
ALTER TABLE ONLY threads ALTER COLUMN "values" SET STORAGE EXTERNAL;

COMMENT ON COLUMN threads."values" IS 'the state after the last run as it was written: json, because jsonb would change it, and only searches parse it';

COMMENT ON COLUMN threads.first_message IS 'beginning of the first human message in `messages` of an input or of the state';

COMMENT ON COLUMN threads.title IS '`title` of the metadata, or else the first message';

COMMENT ON COLUMN threads.expires_at IS '`updated_at` plus the TTL, set by a trigger';

COMMENT ON COLUMN threads.ttl_pruned_at IS 'when `keep_latest` last deleted old checkpoints, which does not change `updated_at`';

COMMENT ON COLUMN threads.ephemeral_until IS 'created for one run: searches do not return it, and it is deleted after this time';

COMMENT ON COLUMN threads.record_events_until IS 'a client follows the whole thread: the events of its runs are recorded until then';

CREATE TABLE webhook_deliveries (
    run_id uuid NOT NULL,
    config_id text DEFAULT ''::text NOT NULL,
    thread_id uuid NOT NULL,
    project_id text NOT NULL,
    principal text DEFAULT ''::text NOT NULL,
    url text NOT NULL,
    body jsonb NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    send_after timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE webhook_deliveries IS 'without a foreign key to runs, because the webhook of a run that is deleted at its end is sent too';

COMMENT ON COLUMN webhook_deliveries.config_id IS 'the push notification config of a task; empty: the webhook of the run';

CREATE TABLE workers (
    worker_id uuid NOT NULL,
    project_id text NOT NULL,
    graph_ids text[] NOT NULL,
    run_slots integer,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON COLUMN workers.graph_ids IS 'the graphs that the process serves: it claims no runs of others';

COMMENT ON COLUMN workers.run_slots IS 'graphs that the process runs at once; NULL: a process of an earlier version';

COMMENT ON COLUMN workers.started_at IS 'when the process took this lease';

ALTER TABLE ONLY api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (key_id);

ALTER TABLE ONLY api_keys
    ADD CONSTRAINT api_keys_secret_sha256_key UNIQUE (secret_sha256);

ALTER TABLE ONLY assistant_versions
    ADD CONSTRAINT assistant_versions_pkey PRIMARY KEY (project_id, assistant_id, version);

ALTER TABLE ONLY assistants
    ADD CONSTRAINT assistants_pkey PRIMARY KEY (project_id, assistant_id);

ALTER TABLE ONLY checkpoint_blobs
    ADD CONSTRAINT checkpoint_blobs_pkey PRIMARY KEY (thread_id, checkpoint_ns, channel, version);

ALTER TABLE ONLY checkpoint_migrations
    ADD CONSTRAINT checkpoint_migrations_pkey PRIMARY KEY (v);

ALTER TABLE ONLY checkpoint_writes
    ADD CONSTRAINT checkpoint_writes_pkey PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx);

ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id);

ALTER TABLE ONLY crash_markers
    ADD CONSTRAINT crash_markers_pkey PRIMARY KEY (worker_id);

ALTER TABLE ONLY crons
    ADD CONSTRAINT crons_pkey PRIMARY KEY (cron_id);

ALTER TABLE ONLY idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (project_id, principal, key);

ALTER TABLE ONLY run_events
    ADD CONSTRAINT run_events_pkey PRIMARY KEY (run_id, "position");

ALTER TABLE ONLY run_undo_log
    ADD CONSTRAINT run_undo_log_pkey PRIMARY KEY (run_id, checkpoint_ns, checkpoint_id, task_id, idx);

ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY sealing_keys
    ADD CONSTRAINT sealing_keys_pkey PRIMARY KEY (project_id, purpose);

ALTER TABLE ONLY store_item_counts
    ADD CONSTRAINT store_item_counts_pkey PRIMARY KEY (principal);

ALTER TABLE ONLY store_migrations
    ADD CONSTRAINT store_migrations_pkey PRIMARY KEY (v);

ALTER TABLE ONLY store
    ADD CONSTRAINT store_pkey PRIMARY KEY (prefix, key);

ALTER TABLE ONLY task_pushes
    ADD CONSTRAINT task_pushes_pkey PRIMARY KEY (chain_id, config_id);

ALTER TABLE ONLY threadkeep_functions
    ADD CONSTRAINT threadkeep_functions_pkey PRIMARY KEY (name);

ALTER TABLE ONLY threadkeep_migrations
    ADD CONSTRAINT threadkeep_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY threads
    ADD CONSTRAINT threads_pkey PRIMARY KEY (thread_id);

ALTER TABLE ONLY webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (run_id, config_id);

ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);

CREATE INDEX assistants_graph_id ON assistants USING btree (project_id, graph_id, created_at DESC);

CREATE INDEX assistants_metadata ON assistants USING gin (metadata jsonb_path_ops);

CREATE INDEX assistants_principal ON assistants USING btree (project_id, principal) WHERE (principal IS NOT NULL);

CREATE INDEX checkpoint_blobs_thread_id_idx ON checkpoint_blobs USING btree (thread_id);

CREATE INDEX checkpoint_writes_thread_id_idx ON checkpoint_writes USING btree (thread_id);

CREATE INDEX checkpoints_thread_id_idx ON checkpoints USING btree (thread_id);

CREATE INDEX crons_created_at ON crons USING btree (project_id, created_at DESC, cron_id DESC);

CREATE INDEX crons_due ON crons USING btree (project_id, next_run_date) WHERE enabled;

CREATE INDEX crons_metadata ON crons USING gin (metadata jsonb_path_ops);

CREATE INDEX crons_principal ON crons USING btree (project_id, ((principal ->> 'identity'::text))) WHERE (principal IS NOT NULL);

CREATE INDEX crons_thread_id ON crons USING btree (thread_id);

CREATE INDEX idempotency_keys_expires_at ON idempotency_keys USING btree (project_id, expires_at);

CREATE INDEX idx_store_expires_at ON store USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE UNIQUE INDEX one_running_run_per_thread ON runs USING btree (thread_id) WHERE ((status)::text = 'running'::text);

CREATE INDEX runs_chain_assistant ON runs USING btree (project_id, assistant_id, updated_at DESC, run_id DESC) WHERE (chain_id IS NOT NULL);

CREATE INDEX runs_chain_id ON runs USING btree (chain_id, queue_position) WHERE (chain_id IS NOT NULL);

CREATE INDEX runs_events_to_delete ON runs USING btree (project_id, finished_at) WHERE ((finished_at IS NOT NULL) AND record_events AND (deleted_events_until IS NULL));

CREATE INDEX runs_pending ON runs USING btree (project_id, queue_position) WHERE ((status)::text = 'pending'::text);

CREATE INDEX runs_pending_principal ON runs USING btree (project_id, COALESCE((principal ->> 'identity'::text), ''::text), queue_position) WHERE ((status)::text = 'pending'::text);

CREATE INDEX runs_thread_id ON runs USING btree (thread_id, queue_position DESC);

CREATE INDEX runs_worker_id ON runs USING btree (worker_id) WHERE ((status)::text = 'running'::text);

CREATE INDEX store_prefix_idx ON store USING btree (prefix text_pattern_ops);

CREATE INDEX task_pushes_thread_id ON task_pushes USING btree (thread_id);

CREATE INDEX threads_created_at ON threads USING btree (project_id, created_at DESC, thread_id DESC);

CREATE INDEX threads_ephemeral_until ON threads USING btree (project_id, ephemeral_until) WHERE (ephemeral_until IS NOT NULL);

CREATE INDEX threads_expires_at ON threads USING btree (project_id, expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX threads_metadata ON threads USING gin (metadata jsonb_path_ops);

CREATE INDEX threads_title ON threads USING gin (to_tsvector('simple'::regconfig, title)) WHERE (title IS NOT NULL);

CREATE INDEX webhook_deliveries_created_at ON webhook_deliveries USING btree (project_id, created_at);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries USING btree (project_id, send_after);

CREATE INDEX webhook_deliveries_principal ON webhook_deliveries USING btree (project_id, principal, send_after);

CREATE INDEX webhook_deliveries_thread_id ON webhook_deliveries USING btree (thread_id);

CREATE TRIGGER count_deleted_items AFTER DELETE ON store REFERENCING OLD TABLE AS old_items FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_store_items();

CREATE TRIGGER count_new_items AFTER INSERT ON store REFERENCING NEW TABLE AS new_items FOR EACH STATEMENT EXECUTE FUNCTION count_new_store_items();

CREATE TRIGGER forget_item_counts AFTER TRUNCATE ON store FOR EACH STATEMENT EXECUTE FUNCTION forget_store_item_counts();

CREATE TRIGGER run_finished_task AFTER UPDATE OF status ON runs FOR EACH ROW WHEN (((old.finished_at IS NULL) AND (new.finished_at IS NOT NULL) AND (new.chain_id IS NOT NULL))) EXECUTE FUNCTION push_finished_task();

CREATE TRIGGER run_finished_webhook AFTER UPDATE OF status ON runs FOR EACH ROW WHEN (((old.finished_at IS NULL) AND (new.finished_at IS NOT NULL) AND ((new.kwargs)::jsonb ? 'webhook'::text))) EXECUTE FUNCTION enqueue_webhook();

CREATE TRIGGER thread_expiry BEFORE INSERT OR UPDATE ON threads FOR EACH ROW WHEN (((new.ttl_minutes IS NOT NULL) OR (new.expires_at IS NOT NULL))) EXECUTE FUNCTION set_thread_expiry();

ALTER TABLE ONLY assistant_versions
    ADD CONSTRAINT assistant_versions_project_id_assistant_id_fkey FOREIGN KEY (project_id, assistant_id) REFERENCES assistants(project_id, assistant_id) ON DELETE CASCADE;

ALTER TABLE ONLY crons
    ADD CONSTRAINT crons_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;

ALTER TABLE ONLY run_events
    ADD CONSTRAINT run_events_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE;

ALTER TABLE ONLY run_undo_log
    ADD CONSTRAINT run_undo_log_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE;

ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;

ALTER TABLE ONLY task_pushes
    ADD CONSTRAINT task_pushes_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;

ALTER TABLE assistant_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE assistants ENABLE ROW LEVEL SECURITY;

ALTER TABLE checkpoint_blobs ENABLE ROW LEVEL SECURITY;

ALTER TABLE checkpoint_writes ENABLE ROW LEVEL SECURITY;

ALTER TABLE checkpoints ENABLE ROW LEVEL SECURITY;

ALTER TABLE crons ENABLE ROW LEVEL SECURITY;

CREATE POLICY everybody ON assistant_versions USING (true) WITH CHECK (true);

CREATE POLICY everybody ON assistants USING (true) WITH CHECK (true);

CREATE POLICY everybody ON checkpoint_blobs USING (true) WITH CHECK (true);

CREATE POLICY everybody ON checkpoint_writes USING (true) WITH CHECK (true);

CREATE POLICY everybody ON checkpoints USING (true) WITH CHECK (true);

CREATE POLICY everybody ON crons USING (true) WITH CHECK (true);

CREATE POLICY everybody ON run_events USING (true) WITH CHECK (true);

CREATE POLICY everybody ON run_undo_log USING (true) WITH CHECK (true);

CREATE POLICY everybody ON runs USING (true) WITH CHECK (true);

CREATE POLICY everybody ON store USING (true) WITH CHECK (true);

CREATE POLICY everybody ON task_pushes USING (true) WITH CHECK (true);

CREATE POLICY everybody ON threads USING (true) WITH CHECK (true);

ALTER TABLE run_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE run_undo_log ENABLE ROW LEVEL SECURITY;

ALTER TABLE runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE store ENABLE ROW LEVEL SECURITY;

ALTER TABLE task_pushes ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON assistant_versions AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM assistants
  WHERE ((assistants.project_id = assistant_versions.project_id) AND (assistants.assistant_id = assistant_versions.assistant_id))))) WITH CHECK (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)));

COMMENT ON POLICY tenant ON assistant_versions IS '92f81494b8dec15131ec4227efce7751';

CREATE POLICY tenant ON checkpoint_blobs AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id =
        CASE
            WHEN (checkpoint_blobs.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text) THEN (checkpoint_blobs.thread_id)::uuid
            ELSE NULL::uuid
        END)))) WITH CHECK (true);

COMMENT ON POLICY tenant ON checkpoint_blobs IS 'f1de8b576a35f96a9eecb945b10622e6';

CREATE POLICY tenant ON checkpoint_writes AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id =
        CASE
            WHEN (checkpoint_writes.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text) THEN (checkpoint_writes.thread_id)::uuid
            ELSE NULL::uuid
        END)))) WITH CHECK (true);

COMMENT ON POLICY tenant ON checkpoint_writes IS 'be2df2ca90e9b06fd6b10e319422c36d';

CREATE POLICY tenant ON checkpoints AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id =
        CASE
            WHEN (checkpoints.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text) THEN (checkpoints.thread_id)::uuid
            ELSE NULL::uuid
        END)))) WITH CHECK (true);

COMMENT ON POLICY tenant ON checkpoints IS '86dabf8536d6af5aae863825fd8473bd';

CREATE POLICY tenant ON crons AS RESTRICTIVE TO threadkeep_tenant USING (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb))) WITH CHECK (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)));

COMMENT ON POLICY tenant ON crons IS 'f33d25e8b1db206d8892f7e831d9d4fe';

CREATE POLICY tenant ON run_events AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM runs
  WHERE (runs.run_id = run_events.run_id)))) WITH CHECK ((EXISTS ( SELECT
   FROM runs
  WHERE (runs.run_id = run_events.run_id))));

COMMENT ON POLICY tenant ON run_events IS '04e72ebd99e4f08abb09f494b5aa2a3e';

CREATE POLICY tenant ON run_undo_log AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM runs
  WHERE (runs.run_id = run_undo_log.run_id)))) WITH CHECK ((EXISTS ( SELECT
   FROM runs
  WHERE (runs.run_id = run_undo_log.run_id))));

COMMENT ON POLICY tenant ON run_undo_log IS 'b9cca37da6710ce511590a06daffce9b';

CREATE POLICY tenant ON runs AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id = runs.thread_id)))) WITH CHECK ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id = runs.thread_id))));

COMMENT ON POLICY tenant ON runs IS '598bae3db374d5669a6159b66aaa05d6';

CREATE POLICY tenant ON store AS RESTRICTIVE TO threadkeep_tenant USING (((prefix ~>=~ current_setting('threadkeep.store_prefix_from'::text, true)) AND (prefix ~<~ current_setting('threadkeep.store_prefix_to'::text, true)))) WITH CHECK (((prefix ~>=~ current_setting('threadkeep.store_prefix_from'::text, true)) AND (prefix ~<~ current_setting('threadkeep.store_prefix_to'::text, true))));

COMMENT ON POLICY tenant ON store IS '207b191abb3bc41198bbde39a2a06224';

CREATE POLICY tenant ON task_pushes AS RESTRICTIVE TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id = task_pushes.thread_id)))) WITH CHECK ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id = task_pushes.thread_id))));

COMMENT ON POLICY tenant ON task_pushes IS '3e9a0b646cf3a7963022f74f620c7e73';

CREATE POLICY tenant ON threads AS RESTRICTIVE TO threadkeep_tenant USING (((project_id = current_setting('threadkeep.project'::text, true)) AND (metadata @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb))) WITH CHECK (((project_id = current_setting('threadkeep.project'::text, true)) AND (metadata @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)));

COMMENT ON POLICY tenant ON threads IS 'f33d25e8b1db206d8892f7e831d9d4fe';

CREATE POLICY tenant_delete ON assistants AS RESTRICTIVE FOR DELETE TO threadkeep_tenant USING (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)));

COMMENT ON POLICY tenant_delete ON assistants IS '83a3a178c44ba6a2d5bfba8e64831e55';

CREATE POLICY tenant_insert ON assistants AS RESTRICTIVE FOR INSERT TO threadkeep_tenant WITH CHECK (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)));

COMMENT ON POLICY tenant_insert ON assistants IS '3b9c513fe7d1a518f262c089427225f9';

CREATE POLICY tenant_select ON assistants AS RESTRICTIVE FOR SELECT TO threadkeep_tenant USING ((((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)) OR (is_system AND (project_id = current_setting('threadkeep.project'::text, true)))));

COMMENT ON POLICY tenant_select ON assistants IS 'b74161f0e4a02cb634107b598b243e7b';

CREATE POLICY tenant_update ON assistants AS RESTRICTIVE FOR UPDATE TO threadkeep_tenant USING (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb))) WITH CHECK (((project_id = current_setting('threadkeep.project'::text, true)) AND ((metadata)::jsonb @> (NULLIF(current_setting('threadkeep.metadata_filter'::text, true), ''::text))::jsonb)));

COMMENT ON POLICY tenant_update ON assistants IS '5e7fe22caa2fc8dc264dbe7412fe9d56';

ALTER TABLE threads ENABLE ROW LEVEL SECURITY;
