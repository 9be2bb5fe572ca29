-- A run's beginning and its end, each one call: a run costs two round trips of ours. Functions, because each statement
-- in them sees what was committed before it, and so what the lock on the thread waited for.

-- Open a run on its thread: `running` where a process asks to start it here and now and nothing else goes on, else
-- `pending`. `asked` is what tables/run_creation.py says of the run; the thread is locked until the transaction ends.
CREATE FUNCTION open_run(
    asked jsonb,
    OUT thread_found boolean,
    OUT new_thread boolean,
    OUT busy_with uuid,
    OUT status text,
    OUT kept boolean,
    OUT metadata jsonb,
    OUT created_at timestamptz,
    OUT superseded uuid[]
) LANGUAGE plpgsql AS $$
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
    IF asked -> 'new_thread' IS NOT NULL THEN
        INSERT INTO threads (thread_id, status, metadata, ttl_strategy, ttl_minutes, temporary_until)
        VALUES (asked_thread, 'busy', asked -> 'new_thread' -> 'metadata' || mark,
                asked -> 'new_thread' ->> 'ttl_strategy', (asked -> 'new_thread' ->> 'ttl_minutes')::float,
                now() + make_interval(secs => (asked -> 'new_thread' ->> 'temporary_s')::float))
        ON CONFLICT (thread_id) DO NOTHING
        RETURNING threads.metadata INTO found_in;
        new_thread := FOUND;
    END IF;
    IF NOT new_thread THEN
        SELECT threads.metadata, coalesce(threads.watched_until > now(), false) INTO found_in, watched
          FROM threads
         WHERE threads.thread_id = asked_thread AND threads.metadata @> (asked -> 'match')
           FOR UPDATE;
        thread_found := FOUND;
        IF NOT thread_found THEN
            RETURN;
        END IF;
        SELECT runs.run_id INTO busy_with
          FROM runs
         WHERE runs.thread_id = asked_thread AND runs.status IN ('pending', 'running')
           AND runs.run_after <= clock_timestamp() -- not now(): what the lock waited for may have begun after this
         ORDER BY runs.queue_position
         LIMIT 1;
        IF busy_with IS NOT NULL AND strategy = 'reject' THEN
            RETURN;
        END IF;
        UPDATE threads
           SET status = 'busy', metadata = threads.metadata || mark, updated_at = now()
         WHERE threads.thread_id = asked_thread;
    END IF;
    thread_found := true;
    status := CASE WHEN starter IS NOT NULL AND busy_with IS NULL THEN 'running' ELSE 'pending' END;
    kept := (asked ->> 'kept')::boolean OR status = 'pending' OR watched;
    created_at := now();
    metadata := (asked -> 'assistant_metadata') || found_in || (asked -> 'metadata') || mark;
    INSERT INTO runs (run_id, thread_id, assistant_id, graph_id, status, metadata, kwargs, principal,
                      multitask_strategy, attempt, worker_id, run_after, temporary, kept, started_at)
    VALUES (asked_run, asked_thread, (asked ->> 'assistant_id')::uuid, asked ->> 'graph_id', open_run.status,
            open_run.metadata, asked -> 'kwargs', nullif(asked -> 'principal', 'null'), strategy,
            CASE open_run.status WHEN 'running' THEN 1 ELSE 0 END,
            CASE open_run.status WHEN 'running' THEN starter END,
            now() + make_interval(secs => (asked ->> 'after_s')::float), (asked ->> 'temporary')::boolean,
            open_run.kept, CASE open_run.status WHEN 'running' THEN now() END);
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

-- End what waits on a thread, and tell what runs there to stop: all but one run. Which were running.
CREATE FUNCTION supersede(of_thread uuid, by_run uuid, strategy text) RETURNS uuid[] LANGUAGE sql AS $$
    WITH superseded AS (
        UPDATE runs
           SET status        = CASE status WHEN 'pending' THEN 'interrupted' ELSE status END,
               finished_at   = CASE status WHEN 'pending' THEN now() END,
               cancel_action = strategy,
               cancel_reason = 'superseded by run ' || by_run,
               updated_at    = now()
         WHERE thread_id = of_thread AND run_id <> by_run AND status IN ('pending', 'running')
        RETURNING run_id, status = 'running' AS running
    ), told AS (
        SELECT run_id, running, pg_notify('threadkeep', 'cancel'), pg_notify('threadkeep', 'run:' || run_id)
          FROM superseded
    )
    SELECT array_agg(run_id) FILTER (WHERE running) FROM told
$$;

-- Close a run that a process executes, and its thread; false where the run is no longer that process's.
CREATE FUNCTION finish_run(
    ended uuid,
    of_thread uuid,
    holder uuid,
    run_status text,
    thread_status text,
    thread_values jsonb,
    thread_interrupts jsonb,
    failure jsonb,
    temporary_s float,
    followed boolean,
    removed boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    waiting boolean;
BEGIN
    PERFORM FROM threads WHERE thread_id = of_thread FOR UPDATE;
    PERFORM FROM runs WHERE run_id = ended AND status = 'running' AND worker_id = holder FOR UPDATE;
    IF NOT FOUND OR NOT EXISTS (SELECT FROM witnesses WHERE worker_id = holder) THEN
        RETURN false;
    END IF;
    waiting := EXISTS (SELECT FROM runs WHERE thread_id = of_thread AND status = 'pending');
    UPDATE threads
       SET status = CASE WHEN waiting THEN 'busy' ELSE thread_status END,
           "values" = coalesce(thread_values, "values"),
           interrupts = thread_interrupts, error = failure, updated_at = now(), state_updated_at = now(),
           temporary_until = CASE WHEN temporary_s IS NULL THEN temporary_until
                                  ELSE greatest(temporary_until, now() + make_interval(secs => temporary_s)) END
     WHERE thread_id = of_thread;
    UPDATE runs -- last, for its webhook tells the thread's values
       SET status = run_status, error = failure, finished_at = now(), updated_at = now(), worker_id = NULL
     WHERE run_id = ended;
    IF waiting THEN
        PERFORM pg_notify('threadkeep', 'pending');
    END IF;
    IF followed THEN
        PERFORM pg_notify('threadkeep', 'run:' || ended);
    END IF;
    IF removed THEN
        DELETE FROM runs WHERE run_id = ended;
    END IF;
    RETURN true;
END
$$;

-- A turn changes `updated_at` and `status` of its thread twice. While no index has these columns, Postgres changes the
-- row in place (HOT) and touches no index. Only threads with a time to live pay, for a column that others leave empty.
DROP INDEX threads_ttl;
ALTER TABLE threads ADD COLUMN expires_at timestamptz;
COMMENT ON COLUMN threads.expires_at IS '`updated_at` and the time to live, set by a trigger';
CREATE FUNCTION set_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.expires_at := NEW.updated_at + make_interval(secs => NEW.ttl_minutes * 60);
    RETURN NEW;
END
$$;
CREATE TRIGGER thread_expires BEFORE INSERT OR UPDATE ON threads
   FOR EACH ROW WHEN (NEW.ttl_minutes IS NOT NULL OR NEW.expires_at IS NOT NULL) EXECUTE FUNCTION set_expiry();
UPDATE threads SET ttl_minutes = ttl_minutes WHERE ttl_minutes IS NOT NULL;
CREATE INDEX threads_expires_at ON threads (expires_at) WHERE expires_at IS NOT NULL;
