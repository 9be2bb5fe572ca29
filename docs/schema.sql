-- The tables of a migrated database: ours, the checkpointer's and the store's. Written by `make schema`.

CREATE DOMAIN cancel_action AS text
	CONSTRAINT cancel_action_check CHECK ((VALUE = ANY (ARRAY['interrupt'::text, 'rollback'::text])));

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

CREATE FUNCTION cancel_runs(of_thread uuid, run_ids uuid[], statuses text[], action text, reason text, match jsonb) RETURNS TABLE(run_id uuid, was_running boolean)
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
             WHERE metadata @> match
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
              WHERE cancelled.began; -- its process died, or was stopped
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
    -- A thread on which nothing executes or waits any more shows what it held before.
    UPDATE threads
       SET status = CASE WHEN interrupts <> '{}' THEN 'interrupted' WHEN error IS NOT NULL THEN 'error' ELSE 'idle' END,
           updated_at = clock_timestamp()
     WHERE thread_id = ANY(held) AND status = 'busy'
       AND NOT EXISTS (SELECT FROM runs
                        WHERE runs.thread_id = threads.thread_id AND runs.status IN ('pending', 'running'));
END
$$;

CREATE FUNCTION check_leases(run_ids uuid[], worker_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
DECLARE
    held int;
    lost uuid;
BEGIN
    SELECT count(*) INTO held FROM (
        SELECT
          FROM unnest(run_ids, worker_ids) AS lease (run_id, worker_id)
          JOIN workers ON workers.worker_id = lease.worker_id
          JOIN witnesses ON witnesses.worker_id = lease.worker_id
          JOIN runs ON runs.run_id = lease.run_id AND runs.worker_id = lease.worker_id AND runs.status = 'running'
         ORDER BY lease.run_id
           FOR KEY SHARE OF workers, runs
    ) AS leases;
    IF held = cardinality(run_ids) THEN
        RETURN;
    END IF;
    SELECT worker_id INTO lost
      FROM unnest(worker_ids) AS worker_id
     WHERE NOT EXISTS (SELECT FROM workers JOIN witnesses USING (worker_id) WHERE workers.worker_id = worker_id.worker_id)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the lease of process % is lost', lost USING ERRCODE = 'TK001';
    END IF;
    RAISE EXCEPTION 'a run is gone, has ended, or is executed by another process' USING ERRCODE = 'TK002';
END
$$;

CREATE FUNCTION claim_run(claimer uuid, stride integer, after_principal text, held_back text[]) RETURNS TABLE(run_id uuid, thread_id uuid, assistant_id uuid, graph_id text, metadata jsonb, kwargs jsonb, principal jsonb, attempt integer, worker_id uuid, temporary boolean, kept boolean, events_before integer, waited_s double precision)
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
         WHERE runs.status = 'pending' AND runs.run_after <= due_by
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
             WHERE runs.status = 'pending' AND runs.run_after <= due_by
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
        -- The thread is held: what this statement sees of its runs is what there is.
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
                  worker_id, temporary, kept,
                  coalesce((SELECT max(position) + stride FROM run_events WHERE run_events.run_id = runs.run_id),
                           CASE WHEN attempt > 1 THEN stride ELSE 0 END),
                  extract(epoch FROM due_by - run_after)::float;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
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
    -- Writes of the deleted checkpoints, and of those that were never written.
    DELETE FROM checkpoint_writes
     WHERE thread_id = thread
       AND (checkpoint_ns, checkpoint_id) NOT IN (
        SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = thread);
    DELETE FROM checkpoint_blobs -- NOT IN is hashed, however few rows the planner expects of this thread
     WHERE thread_id = thread
       AND (checkpoint_ns, channel, version) NOT IN (
        SELECT checkpoint_ns, held.channel, held.version
          FROM checkpoints, jsonb_each_text(checkpoint -> 'channel_versions') AS held (channel, version)
         WHERE thread_id = thread AND held.version IS NOT NULL);
END
$$;

CREATE FUNCTION delete_threads(thread_ids uuid[], match jsonb) RETURNS SETOF uuid
    LANGUAGE plpgsql
    AS $$
DECLARE
    held uuid[];
BEGIN
    SELECT array_agg(thread_id) INTO held
      FROM (SELECT thread_id
              FROM threads
             WHERE thread_id = ANY(thread_ids) AND metadata @> match
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

CREATE FUNCTION end_rolled_back(of_thread uuid, of_run uuid) RETURNS void
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

CREATE FUNCTION finish_run(ending jsonb, thread_values json, in_batch boolean DEFAULT false) RETURNS boolean
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
DECLARE
    ended uuid := ending ->> 'run_id';
    of_thread uuid := ending ->> 'thread_id';
    removed boolean := ending ->> 'remove';
    failure jsonb := nullif(ending -> 'error', 'null');
    temporary_s float := ending ->> 'temporary_s';
    asked text;
    waiting boolean;
    ended_at timestamptz;
BEGIN
    PERFORM FROM threads WHERE thread_id = of_thread FOR NO KEY UPDATE;
    SELECT cancel_action INTO asked
      FROM runs
     WHERE run_id = ended AND status = 'running' AND worker_id = (ending ->> 'worker_id')::uuid
       FOR NO KEY UPDATE;
    IF NOT FOUND OR NOT EXISTS (SELECT FROM witnesses WHERE worker_id = (ending ->> 'worker_id')::uuid) THEN
        RETURN false;
    END IF;
    IF asked = 'rollback' OR removed THEN
        IF in_batch THEN
            RETURN NULL;
        END IF;
        PERFORM end_rolled_back(of_thread, ended);
        RETURN true;
    END IF;
    ended_at := clock_timestamp();
    waiting := EXISTS (SELECT FROM runs WHERE thread_id = of_thread AND status = 'pending');
    UPDATE threads
       SET status = CASE WHEN waiting THEN 'busy' ELSE ending ->> 'thread_status' END,
           "values" = coalesce(thread_values, "values"),
           interrupts = ending -> 'interrupts', error = failure, updated_at = ended_at, state_updated_at = ended_at,
           temporary_until = CASE WHEN temporary_s IS NULL THEN temporary_until
                                  ELSE greatest(temporary_until, ended_at + make_interval(secs => temporary_s)) END
     WHERE thread_id = of_thread;
    UPDATE runs -- last, for its webhook tells the thread's values
       SET status = ending ->> 'status', error = failure, output_keys = ending -> 'output_keys',
           finished_at = ended_at, updated_at = ended_at, worker_id = NULL
     WHERE run_id = ended;
    DELETE FROM run_undo_log WHERE run_id = ended;
    IF waiting THEN
        PERFORM pg_notify('threadkeep', 'pending');
    END IF;
    IF (ending ->> 'followed')::boolean THEN
        PERFORM pg_notify('threadkeep', 'run:' || ended);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION finish_runs(endings jsonb[], thread_values json[]) RETURNS jsonb
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
DECLARE
    done jsonb := '{}';
BEGIN
    FOR number IN 1 .. cardinality(endings) LOOP
        IF NOT is_held((endings[number] ->> 'thread_id')::uuid) THEN
            done := done || jsonb_build_object(endings[number] ->> 'run_id',
                                               finish_run(endings[number], thread_values[number], true));
        END IF;
    END LOOP;
    RETURN done;
END
$$;

CREATE FUNCTION is_held(thread uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = thread FOR NO KEY UPDATE SKIP LOCKED;
    RETURN NOT FOUND AND EXISTS (SELECT FROM threads WHERE thread_id = thread);
END
$$;

CREATE FUNCTION leave_webhook() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, thread_id, url, body)
    SELECT NEW.run_id,
           NEW.thread_id,
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
    ON CONFLICT (run_id) DO NOTHING;
    PERFORM pg_notify('threadkeep', 'webhook');
    RETURN NULL;
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

COMMENT ON TABLE run_undo_log IS 'rows of checkpoint_writes as they were before a run changed those of an earlier run';

COMMENT ON COLUMN run_undo_log.existed IS 'false: there was no such row, and a rollback deletes it';

CREATE FUNCTION log_undo(entries run_undo_log[]) RETURNS void
    LANGUAGE sql
    AS $$
    INSERT INTO run_undo_log SELECT * FROM unnest(entries) ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION open_run(asked jsonb, OUT thread_found boolean, OUT new_thread boolean, OUT busy_with uuid, OUT status text, OUT kept boolean, OUT metadata jsonb, OUT created_at timestamp with time zone, OUT superseded uuid[]) RETURNS record
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    asked_run    CONSTANT uuid    := asked ->> 'run_id';
    asked_thread CONSTANT uuid    := asked ->> 'thread_id';
    starter      CONSTANT uuid    := asked ->> 'worker_id';
    strategy     CONSTANT text    := asked ->> 'strategy';
    mark         CONSTANT jsonb   := asked -> 'mark';
    watched      boolean := false;
    found_in     jsonb;
BEGIN
    new_thread := false;
    FOR _ IN 1 .. 3 LOOP -- a thread that is there for the insert may be deleted before it is locked
        IF asked -> 'new_thread' IS NOT NULL THEN
            INSERT INTO threads (thread_id, status, metadata, ttl_strategy, ttl_minutes, temporary_until)
            VALUES (asked_thread, 'busy', asked -> 'new_thread' -> 'metadata' || mark,
                    asked -> 'new_thread' ->> 'ttl_strategy', (asked -> 'new_thread' ->> 'ttl_minutes')::float,
                    now() + make_interval(secs => (asked -> 'new_thread' ->> 'temporary_s')::float))
            ON CONFLICT (thread_id) DO NOTHING
            RETURNING threads.metadata INTO found_in;
            new_thread := FOUND;
            EXIT WHEN new_thread;
        END IF;
        SELECT threads.metadata, coalesce(threads.watched_until > now(), false) INTO found_in, watched
          FROM threads
         WHERE threads.thread_id = asked_thread AND threads.metadata @> (asked -> 'match')
           FOR NO KEY UPDATE;
        thread_found := FOUND;
        EXIT WHEN thread_found OR asked -> 'new_thread' IS NULL;
    END LOOP;
    created_at := clock_timestamp(); -- not now(): the lock may have been waited for
    IF NOT new_thread THEN
        IF NOT thread_found THEN
            RETURN;
        END IF;
        SELECT runs.run_id INTO busy_with
          FROM runs
         WHERE runs.thread_id = asked_thread AND runs.status IN ('pending', 'running')
           AND runs.run_after <= open_run.created_at
         ORDER BY runs.queue_position
         LIMIT 1;
        IF busy_with IS NOT NULL AND strategy = 'reject' THEN
            RETURN;
        END IF;
        UPDATE threads
           SET status = 'busy', metadata = threads.metadata || mark, updated_at = open_run.created_at
         WHERE threads.thread_id = asked_thread;
    END IF;
    thread_found := true;
    status := CASE WHEN starter IS NOT NULL AND busy_with IS NULL THEN 'running' ELSE 'pending' END;
    kept := (asked ->> 'kept')::boolean OR status = 'pending' OR watched;
    metadata := (asked -> 'assistant_metadata') || found_in || (asked -> 'metadata') || mark;
    INSERT INTO runs (run_id, thread_id, assistant_id, graph_id, status, metadata, kwargs, principal,
                      multitask_strategy, attempt, worker_id, run_after, temporary, kept, started_at,
                      created_at, updated_at)
    VALUES (asked_run, asked_thread, (asked ->> 'assistant_id')::uuid, asked ->> 'graph_id', open_run.status,
            open_run.metadata, asked -> 'kwargs', nullif(asked -> 'principal', 'null'), strategy,
            CASE open_run.status WHEN 'running' THEN 1 ELSE 0 END,
            CASE open_run.status WHEN 'running' THEN starter END,
            open_run.created_at + make_interval(secs => (asked ->> 'after_s')::float),
            (asked ->> 'temporary')::boolean,
            open_run.kept, CASE open_run.status WHEN 'running' THEN open_run.created_at END,
            open_run.created_at, open_run.created_at);
    IF busy_with IS NOT NULL AND strategy IN ('interrupt', 'rollback') THEN
        superseded := supersede(asked_thread, asked_run, strategy);
    END IF;
    IF status = 'pending' THEN
        PERFORM pg_notify('threadkeep', 'pending');
    ELSIF NOT (asked ->> 'told')::boolean THEN -- nobody hears of the run before its end, which is on disk
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF watched THEN
        PERFORM pg_notify('threadkeep', 'thread:' || asked_thread);
    END IF;
END
$$;

CREATE FUNCTION open_runs(asked jsonb[], matches text[]) RETURNS TABLE(place integer, thread_found boolean, new_thread boolean, busy_with uuid, status text, kept boolean, metadata jsonb, created_at timestamp with time zone, superseded uuid[])
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    of_tenants CONSTANT boolean := cardinality(matches) > 0;
BEGIN
    IF of_tenants THEN
        PERFORM set_config('role', 'threadkeep_tenant', true);
    END IF;
    FOR number IN 1 .. cardinality(asked) LOOP
        IF of_tenants THEN
            PERFORM set_config('threadkeep.match', matches[number], true);
        END IF;
        IF is_held((asked[number] ->> 'thread_id')::uuid) THEN
            CONTINUE;
        END IF;
        RETURN QUERY SELECT number, opened.* FROM open_run(asked[number]) AS opened;
    END LOOP;
END
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

CREATE FUNCTION raise_wall() RETURNS void
    LANGUAGE plpgsql
    AS $_$
DECLARE
    own       CONSTANT text := $e$metadata @> nullif(current_setting('threadkeep.match', true), '')::jsonb$e$;
    in_thread CONSTANT text := $e$EXISTS (SELECT FROM threads
 WHERE threads.thread_id = CASE WHEN %1$s.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                                THEN %1$s.thread_id::uuid END)$e$;
    in_space  CONSTANT text := $e$prefix ~>=~ current_setting('threadkeep.space_from', true)
 AND prefix ~<~ current_setting('threadkeep.space_to', true)$e$;
    policy    record;
    named     name;
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
        EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error THEN NULL; -- granted by others, or not
        END;
    END IF;
    IF NOT has_schema_privilege('threadkeep_tenant', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO threadkeep_tenant', current_schema());
    END IF;

    -- Requests also note what is nobody's (idempotency keys, wake-ups, webhooks to be sent); of API keys they see nothing.
    FOR named IN
        SELECT relname FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND pg_get_userbyid(relowner) = current_user
           AND relname <> 'api_keys' AND relname NOT LIKE '%migrations'
           AND NOT has_table_privilege('threadkeep_tenant', oid, 'DELETE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO threadkeep_tenant', named);
    END LOOP;

    FOR policy IN
        SELECT wanted.*
          FROM (VALUES ('threads', own, own),
                       ('assistants', own, own),
                       ('assistant_versions',
                        'EXISTS (SELECT FROM assistants WHERE assistants.assistant_id = assistant_versions.assistant_id)',
                        own),
                       ('crons', own, own),
                       ('runs', 'EXISTS (SELECT FROM threads WHERE threads.thread_id = runs.thread_id)', NULL),
                       ('run_events', 'EXISTS (SELECT FROM runs WHERE runs.run_id = run_events.run_id)', NULL),
                       -- A copy writes the thread and its checkpoints in one statement, which sees neither yet.
                       ('checkpoints', format(in_thread, 'checkpoints'), 'true'),
                       ('checkpoint_blobs', format(in_thread, 'checkpoint_blobs'), 'true'),
                       ('checkpoint_writes', format(in_thread, 'checkpoint_writes'), 'true'),
                       ('store', in_space, NULL),
                       ('store_vectors', in_space, NULL)) AS wanted (name, seen, written)
          JOIN pg_class ON pg_class.oid = to_regclass(wanted.name)
         WHERE NOT relrowsecurity
            OR NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'tenant')
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', policy.name);
        CONTINUE WHEN EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(policy.name) AND polname = 'tenant');
        EXECUTE format('CREATE POLICY tenant ON %I TO threadkeep_tenant USING (%s) WITH CHECK (%s)',
                       policy.name, policy.seen, coalesce(policy.written, policy.seen));
        IF policy.name = 'assistants' THEN
            CREATE POLICY tenant_of_graph ON assistants FOR SELECT TO threadkeep_tenant USING (of_graph);
        END IF;
    END LOOP;
END
$_$;

COMMENT ON FUNCTION raise_wall() IS 'row-level security, as far as the role that migrates may';

CREATE FUNCTION recover_runs(max_attempts integer, failure jsonb) RETURNS SETOF uuid
    LANGUAGE plpgsql
    AS $$
DECLARE
    held uuid[];
    orphan record;
BEGIN
    SELECT array_agg(thread_id) INTO held
      FROM (SELECT threads.thread_id
              FROM threads JOIN runs USING (thread_id)
             WHERE runs.status = 'running'
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
            PERFORM end_rolled_back(orphan.thread_id, orphan.run_id);
        ELSIF orphan.attempt < max_attempts THEN
            UPDATE runs
               SET status = 'pending', worker_id = NULL, kept = true, updated_at = clock_timestamp()
             WHERE run_id = orphan.run_id;
        ELSE
            UPDATE threads
               SET status = CASE WHEN EXISTS (SELECT FROM runs WHERE thread_id = orphan.thread_id AND status = 'pending')
                                 THEN 'busy' ELSE 'error' END,
                   error = failure, updated_at = clock_timestamp()
             WHERE thread_id = orphan.thread_id;
            UPDATE runs
               SET status = 'error', finished_at = clock_timestamp(), error = failure, worker_id = NULL, kept = true,
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
            PERFORM end_rolled_back(abandoned.thread_id, abandoned.run_id);
            CONTINUE;
        END IF;
        UPDATE runs
           SET status = 'pending', worker_id = NULL, kept = true, updated_at = clock_timestamp(),
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
    IF NOT FOUND OR NOT EXISTS (SELECT FROM witnesses WHERE worker_id = holder) THEN
        RETURN false;
    END IF;
    PERFORM delete_run_checkpoints(of_thread, of_run);
    RETURN true;
END
$$;

CREATE FUNCTION set_expiry() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.expires_at := NEW.updated_at + make_interval(secs => NEW.ttl_minutes * 60);
    RETURN NEW;
END
$$;

CREATE FUNCTION supersede(of_thread uuid, by_run uuid, strategy text) RETURNS uuid[]
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
        ELSIF strategy = 'rollback' AND superseded.began THEN
            PERFORM delete_run_checkpoints(of_thread, superseded.run_id);
        ELSE
            DELETE FROM run_undo_log WHERE run_id = superseded.run_id;
        END IF;
    END LOOP;
    RETURN running;
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

COMMENT ON COLUMN api_keys.prefix IS 'how the secret begins, to tell keys apart';

COMMENT ON COLUMN api_keys.scopes IS 'auth events such as threads.read or threads.*; none: all';

CREATE TABLE assistant_versions (
    assistant_id uuid NOT NULL,
    version integer NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL,
    context jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT assistant_versions_version_check CHECK ((version >= 1))
);

CREATE TABLE assistants (
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    context jsonb DEFAULT '{}'::jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    of_graph boolean DEFAULT false NOT NULL,
    CONSTRAINT assistants_config_check CHECK ((jsonb_typeof(config) = 'object'::text)),
    CONSTRAINT assistants_context_check CHECK ((jsonb_typeof(context) = 'object'::text)),
    CONSTRAINT assistants_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT assistants_version_check CHECK ((version >= 1))
);

COMMENT ON COLUMN assistants.of_graph IS 'the assistant that a graph has of its own: everybody may read it and run it';

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

CREATE TABLE crons (
    cron_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    thread_id uuid,
    user_id text,
    schedule text NOT NULL,
    timezone text,
    payload jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    on_run_completed text,
    end_time timestamp with time zone,
    enabled boolean DEFAULT true NOT NULL,
    next_run_date timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    filters jsonb DEFAULT '{}'::jsonb NOT NULL,
    principal jsonb,
    CONSTRAINT a_thread_is_deleted_or_given CHECK (((thread_id IS NULL) = (on_run_completed IS NOT NULL))),
    CONSTRAINT crons_filters_check CHECK ((jsonb_typeof(filters) = 'object'::text)),
    CONSTRAINT crons_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text)),
    CONSTRAINT crons_on_run_completed_check CHECK ((on_run_completed = ANY (ARRAY['delete'::text, 'keep'::text]))),
    CONSTRAINT crons_payload_check CHECK ((jsonb_typeof(payload) = 'object'::text))
);

COMMENT ON COLUMN crons.next_run_date IS 'the one tick that is to be fired next; who fires it moves it on in the same transaction';

COMMENT ON COLUMN crons.filters IS 'what whoever made it may see; its runs see no more';

CREATE TABLE idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL,
    request bytea NOT NULL,
    thread_ids uuid[] NOT NULL,
    ids uuid[] NOT NULL,
    opened boolean DEFAULT false NOT NULL,
    reservation uuid NOT NULL,
    worker_id uuid NOT NULL,
    reserved_until timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON COLUMN idempotency_keys.principal IS 'who sent it; empty while there is no authentication';

COMMENT ON COLUMN idempotency_keys.request IS 'SHA-256 of method, path and body';

COMMENT ON COLUMN idempotency_keys.ids IS 'of the runs or the cron that are made, in order; of a thread none';

COMMENT ON COLUMN idempotency_keys.opened IS 'set in the transaction that makes what the ids name';

COMMENT ON COLUMN idempotency_keys.worker_id IS 'the process that makes it; where that is dead, another may';

CREATE TABLE run_events (
    run_id uuid NOT NULL,
    "position" integer NOT NULL,
    event text NOT NULL,
    data text NOT NULL
);

CREATE TABLE runs (
    run_id uuid NOT NULL,
    queue_position bigint NOT NULL,
    thread_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    status run_status NOT NULL,
    metadata jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    kwargs jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    multitask_strategy multitask_strategy DEFAULT 'enqueue'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    worker_id uuid,
    run_after timestamp with time zone DEFAULT now() NOT NULL,
    temporary boolean DEFAULT false NOT NULL,
    kept boolean DEFAULT true NOT NULL,
    cancel_action cancel_action,
    cancel_reason text,
    error jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    principal jsonb,
    output_keys jsonb,
    CONSTRAINT final_has_an_end CHECK ((((status)::text = ANY (ARRAY['pending'::text, 'running'::text])) = (finished_at IS NULL))),
    CONSTRAINT running_has_a_worker CHECK ((((status)::text = 'running'::text) = (worker_id IS NOT NULL)))
);

COMMENT ON COLUMN runs.temporary IS 'the thread goes with the run: a stateless run whose on_completion is delete';

COMMENT ON COLUMN runs.kept IS 'its events are written to run_events';

COMMENT ON COLUMN runs.output_keys IS 'keys of the thread''s values that the run answers with (an array), or the one whose value it is (a string); JSON''s null: all; NULL: its graph did not come to an end';

ALTER TABLE runs ALTER COLUMN queue_position ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME runs_queue_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE store (
    prefix text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamp with time zone,
    ttl_minutes integer
);

CREATE TABLE store_migrations (
    v integer NOT NULL
);

CREATE TABLE threadkeep_migrations (
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE threads (
    thread_id uuid NOT NULL,
    status thread_status DEFAULT 'idle'::text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    config jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    "values" json,
    interrupts jsonb_object DEFAULT '{}'::jsonb NOT NULL,
    error jsonb,
    ttl_strategy ttl_strategy,
    ttl_minutes ttl_minutes,
    watched_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    state_updated_at timestamp with time zone DEFAULT now() NOT NULL,
    ttl_swept_at timestamp with time zone,
    temporary_until timestamp with time zone,
    expires_at timestamp with time zone,
    CONSTRAINT threads_check CHECK (((ttl_strategy IS NULL) = (ttl_minutes IS NULL))),
    CONSTRAINT threads_metadata_check CHECK ((jsonb_typeof(metadata) = 'object'::text))
);
ALTER TABLE ONLY threads ALTER COLUMN "values" SET STORAGE EXTERNAL;

COMMENT ON COLUMN threads.watched_until IS 'somebody follows the whole thread: until then its runs keep their events';

COMMENT ON COLUMN threads.temporary_until IS 'made for one run alone: after that no search finds it, and after this it is deleted';

COMMENT ON COLUMN threads.expires_at IS '`updated_at` and the time to live, set by a trigger';

CREATE TABLE webhook_deliveries (
    run_id uuid NOT NULL,
    url text NOT NULL,
    body jsonb NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    send_after timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    thread_id uuid NOT NULL
);

COMMENT ON TABLE webhook_deliveries IS 'no reference to runs: a run that is deleted at its end has its webhook sent too';

CREATE UNLOGGED TABLE witnesses (
    worker_id uuid NOT NULL
);

COMMENT ON TABLE witnesses IS 'one row a process: Postgres has not crashed since it took its lease';

CREATE TABLE workers (
    worker_id uuid NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    renewed_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (key_id);

ALTER TABLE ONLY api_keys
    ADD CONSTRAINT api_keys_secret_sha256_key UNIQUE (secret_sha256);

ALTER TABLE ONLY assistant_versions
    ADD CONSTRAINT assistant_versions_pkey PRIMARY KEY (assistant_id, version);

ALTER TABLE ONLY assistants
    ADD CONSTRAINT assistants_pkey PRIMARY KEY (assistant_id);

ALTER TABLE ONLY checkpoint_blobs
    ADD CONSTRAINT checkpoint_blobs_pkey PRIMARY KEY (thread_id, checkpoint_ns, channel, version);

ALTER TABLE ONLY checkpoint_migrations
    ADD CONSTRAINT checkpoint_migrations_pkey PRIMARY KEY (v);

ALTER TABLE ONLY checkpoint_writes
    ADD CONSTRAINT checkpoint_writes_pkey PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx);

ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id);

ALTER TABLE ONLY crons
    ADD CONSTRAINT crons_pkey PRIMARY KEY (cron_id);

ALTER TABLE ONLY idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, key);

ALTER TABLE ONLY run_events
    ADD CONSTRAINT run_events_pkey PRIMARY KEY (run_id, "position");

ALTER TABLE ONLY run_undo_log
    ADD CONSTRAINT run_undo_log_pkey PRIMARY KEY (run_id, checkpoint_ns, checkpoint_id, task_id, idx);

ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY store_migrations
    ADD CONSTRAINT store_migrations_pkey PRIMARY KEY (v);

ALTER TABLE ONLY store
    ADD CONSTRAINT store_pkey PRIMARY KEY (prefix, key);

ALTER TABLE ONLY threadkeep_migrations
    ADD CONSTRAINT threadkeep_migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY threads
    ADD CONSTRAINT threads_pkey PRIMARY KEY (thread_id);

ALTER TABLE ONLY webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY witnesses
    ADD CONSTRAINT witnesses_pkey PRIMARY KEY (worker_id);

ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);

CREATE INDEX assistants_graph_id ON assistants USING btree (graph_id, created_at DESC);

CREATE INDEX assistants_metadata ON assistants USING gin (metadata jsonb_path_ops);

CREATE INDEX checkpoint_blobs_thread_id_idx ON checkpoint_blobs USING btree (thread_id);

CREATE INDEX checkpoint_writes_thread_id_idx ON checkpoint_writes USING btree (thread_id);

CREATE INDEX checkpoints_thread_id_idx ON checkpoints USING btree (thread_id);

CREATE INDEX crons_created_at ON crons USING btree (created_at DESC, cron_id DESC);

CREATE INDEX crons_due ON crons USING btree (next_run_date) WHERE enabled;

CREATE INDEX crons_metadata ON crons USING gin (metadata jsonb_path_ops);

CREATE INDEX crons_of_a_thread ON crons USING btree (thread_id);

CREATE INDEX idempotency_keys_expires_at ON idempotency_keys USING btree (expires_at);

CREATE INDEX idx_store_expires_at ON store USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE UNIQUE INDEX one_running_run_a_thread ON runs USING btree (thread_id) WHERE ((status)::text = 'running'::text);

CREATE INDEX runs_of_a_thread ON runs USING btree (thread_id, queue_position DESC);

CREATE INDEX runs_of_a_worker ON runs USING btree (worker_id) WHERE ((status)::text = 'running'::text);

CREATE INDEX runs_pending ON runs USING btree (queue_position) WHERE ((status)::text = 'pending'::text);

CREATE INDEX runs_pending_of_principals ON runs USING btree (COALESCE((principal ->> 'identity'::text), ''::text), queue_position) WHERE ((status)::text = 'pending'::text);

CREATE INDEX store_prefix_idx ON store USING btree (prefix text_pattern_ops);

CREATE INDEX threads_created_at ON threads USING btree (created_at DESC, thread_id DESC);

CREATE INDEX threads_expires_at ON threads USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX threads_metadata ON threads USING gin (metadata jsonb_path_ops);

CREATE INDEX threads_temporary ON threads USING btree (temporary_until) WHERE (temporary_until IS NOT NULL);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries USING btree (send_after);

CREATE INDEX webhook_deliveries_thread_id ON webhook_deliveries USING btree (thread_id);

CREATE TRIGGER run_has_ended AFTER UPDATE OF status ON runs FOR EACH ROW WHEN (((old.finished_at IS NULL) AND (new.finished_at IS NOT NULL) AND ((new.kwargs)::jsonb ? 'webhook'::text))) EXECUTE FUNCTION leave_webhook();

CREATE TRIGGER thread_expires BEFORE INSERT OR UPDATE ON threads FOR EACH ROW WHEN (((new.ttl_minutes IS NOT NULL) OR (new.expires_at IS NOT NULL))) EXECUTE FUNCTION set_expiry();

ALTER TABLE ONLY assistant_versions
    ADD CONSTRAINT assistant_versions_assistant_id_fkey FOREIGN KEY (assistant_id) REFERENCES assistants(assistant_id) ON DELETE CASCADE;

ALTER TABLE ONLY crons
    ADD CONSTRAINT crons_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;

ALTER TABLE ONLY run_events
    ADD CONSTRAINT run_events_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE;

ALTER TABLE ONLY run_undo_log
    ADD CONSTRAINT run_undo_log_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE;

ALTER TABLE ONLY runs
    ADD CONSTRAINT runs_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES threads(thread_id) ON DELETE CASCADE;

ALTER TABLE assistant_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE assistants ENABLE ROW LEVEL SECURITY;

ALTER TABLE checkpoint_blobs ENABLE ROW LEVEL SECURITY;

ALTER TABLE checkpoint_writes ENABLE ROW LEVEL SECURITY;

ALTER TABLE checkpoints ENABLE ROW LEVEL SECURITY;

ALTER TABLE crons ENABLE ROW LEVEL SECURITY;

ALTER TABLE run_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE store ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON assistant_versions TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM assistants
  WHERE (assistants.assistant_id = assistant_versions.assistant_id)))) WITH CHECK ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb));

CREATE POLICY tenant ON assistants TO threadkeep_tenant USING ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb)) WITH CHECK ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb));

CREATE POLICY tenant ON checkpoint_blobs TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id =
        CASE
            WHEN (checkpoint_blobs.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text) THEN (checkpoint_blobs.thread_id)::uuid
            ELSE NULL::uuid
        END)))) WITH CHECK (true);

CREATE POLICY tenant ON checkpoint_writes TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id =
        CASE
            WHEN (checkpoint_writes.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text) THEN (checkpoint_writes.thread_id)::uuid
            ELSE NULL::uuid
        END)))) WITH CHECK (true);

CREATE POLICY tenant ON checkpoints TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id =
        CASE
            WHEN (checkpoints.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text) THEN (checkpoints.thread_id)::uuid
            ELSE NULL::uuid
        END)))) WITH CHECK (true);

CREATE POLICY tenant ON crons TO threadkeep_tenant USING ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb)) WITH CHECK ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb));

CREATE POLICY tenant ON run_events TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM runs
  WHERE (runs.run_id = run_events.run_id)))) WITH CHECK ((EXISTS ( SELECT
   FROM runs
  WHERE (runs.run_id = run_events.run_id))));

CREATE POLICY tenant ON runs TO threadkeep_tenant USING ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id = runs.thread_id)))) WITH CHECK ((EXISTS ( SELECT
   FROM threads
  WHERE (threads.thread_id = runs.thread_id))));

CREATE POLICY tenant ON store TO threadkeep_tenant USING (((prefix ~>=~ current_setting('threadkeep.space_from'::text, true)) AND (prefix ~<~ current_setting('threadkeep.space_to'::text, true)))) WITH CHECK (((prefix ~>=~ current_setting('threadkeep.space_from'::text, true)) AND (prefix ~<~ current_setting('threadkeep.space_to'::text, true))));

CREATE POLICY tenant ON threads TO threadkeep_tenant USING ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb)) WITH CHECK ((metadata @> (NULLIF(current_setting('threadkeep.match'::text, true), ''::text))::jsonb));

CREATE POLICY tenant_of_graph ON assistants FOR SELECT TO threadkeep_tenant USING (of_graph);

ALTER TABLE threads ENABLE ROW LEVEL SECURITY;
