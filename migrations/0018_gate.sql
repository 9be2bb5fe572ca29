-- The gate to a thread: every change of a thread's runs and state holds the thread's row, and every write of a run holds
-- the run's row. Lock order: threads by id, then runs by id. A decision after a wait is made by a later statement, which
-- sees what the wait was for, and by clock_timestamp(), for now() is the time before the wait.

-- A webhook is deleted with its thread, also after its run is gone.
ALTER TABLE webhook_deliveries ADD COLUMN thread_id uuid;
UPDATE webhook_deliveries SET thread_id = (body ->> 'thread_id')::uuid;
ALTER TABLE webhook_deliveries ALTER thread_id SET NOT NULL;
CREATE INDEX webhook_deliveries_thread_id ON webhook_deliveries (thread_id);

CREATE OR REPLACE FUNCTION leave_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- A run that resumes another one writes to the checkpoint at which that one stopped. What stood there before is kept
-- until the run has ended, so that a rollback can put it back.
CREATE TABLE run_undo_log (
    run_id        uuid    NOT NULL REFERENCES runs ON DELETE CASCADE,
    checkpoint_ns text    NOT NULL,
    checkpoint_id text    NOT NULL,
    task_id       text    NOT NULL,
    idx           integer NOT NULL,
    existed       boolean NOT NULL,
    channel       text,
    type          text,
    blob          bytea,
    task_path     text,
    PRIMARY KEY (run_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
COMMENT ON TABLE run_undo_log IS 'rows of checkpoint_writes as they were before a run changed those of an earlier run';
COMMENT ON COLUMN run_undo_log.existed IS 'false: there was no such row, and a rollback deletes it';

-- Note what stood in checkpoint_writes before. The first note of a row stays.
CREATE FUNCTION log_undo(entries run_undo_log[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO run_undo_log SELECT * FROM unnest(entries) ON CONFLICT DO NOTHING
$$;

-- Fencing: hold the rows of runs that a process executes, and of the process, until the transaction ends. A transaction
-- that takes a run away from its process locks the run FOR UPDATE, and so comes before or after, never between.
-- TK001: the process has lost its lease. TK002: the run is gone, has ended, or is another process's.
CREATE FUNCTION check_leases(run_ids uuid[], worker_ids uuid[]) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
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
DROP FUNCTION hold_lease(uuid);

-- Lock a thread, unless another transaction has: then true. False too if there is no such thread.
CREATE OR REPLACE FUNCTION is_held(thread uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = thread FOR NO KEY UPDATE SKIP LOCKED;
    RETURN NOT FOUND AND EXISTS (SELECT FROM threads WHERE thread_id = thread);
END
$$;

-- Start the oldest pending run that may start, or none. A thread that another transaction holds is passed over.
CREATE FUNCTION claim_run(claimer uuid, stride int) RETURNS TABLE (
    run_id uuid,
    thread_id uuid,
    assistant_id uuid,
    graph_id text,
    metadata jsonb,
    kwargs jsonb,
    principal jsonb,
    attempt int,
    worker_id uuid,
    temporary boolean,
    kept boolean,
    events_before int,
    waited_s float
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
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
           AND NOT EXISTS (
            SELECT FROM runs AS earlier
             WHERE earlier.thread_id = runs.thread_id
               AND (earlier.status = 'running'
                    OR (earlier.status = 'pending' AND earlier.run_after <= due_by
                        AND earlier.queue_position < runs.queue_position)))
         ORDER BY runs.queue_position
         LIMIT 1
           FOR NO KEY UPDATE OF threads SKIP LOCKED;
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

-- Return runs that a process executes to the queue: all but `still_executed`, of those that began over `idle_s` seconds
-- ago. How many.
CREATE FUNCTION requeue_runs(holder uuid, still_executed uuid[], idle_s float, count_attempt boolean) RETURNS int
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

-- Return the runs of dead processes to the queue, or end those that were tried often enough. Which.
CREATE FUNCTION recover_runs(max_attempts int, failure jsonb) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
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

-- Delete threads with all that they have: runs, events, checkpoints, crons, webhooks. Only those whose metadata contain
-- `match`. Which. A run that writes at this moment is waited for; one that writes later finds its run gone.
CREATE FUNCTION delete_threads(thread_ids uuid[], match jsonb) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
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

-- Take back what a run wrote. The caller holds the thread, and no process executes the run, or the caller's own does.
CREATE FUNCTION delete_run_checkpoints(of_thread uuid, of_run uuid) RETURNS void LANGUAGE plpgsql AS $$
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

-- Take back what a run wrote that a process still executes, after all its writes. False: it is no longer the process's.
CREATE FUNCTION rollback_run(of_thread uuid, of_run uuid, holder uuid) RETURNS boolean LANGUAGE plpgsql AS $$
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

-- Cancel the runs of the threads whose metadata contain `match`: of one thread, of these ids, of these statuses. One that
-- waits ends now, and with `rollback` leaves nothing. One that executes is told to stop.
CREATE FUNCTION cancel_runs(of_thread uuid, run_ids uuid[], statuses text[], action text, reason text, match jsonb)
RETURNS TABLE (run_id uuid, was_running boolean) LANGUAGE plpgsql AS $$
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

-- End what waits on a thread, and tell what runs there to stop: all but one run. Which were running.
CREATE OR REPLACE FUNCTION supersede(of_thread uuid, by_run uuid, strategy text) RETURNS uuid[] LANGUAGE plpgsql AS $$
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

-- Open a run on its thread: `running` if a process asks to start it here and now and nothing else goes on, else
-- `pending`. `asked` is what tables/run_creation.py says of the run. The thread is held until the transaction ends.
CREATE OR REPLACE FUNCTION open_run(
    asked jsonb,
    OUT thread_found boolean,
    OUT new_thread boolean,
    OUT busy_with uuid,
    OUT status text,
    OUT kept boolean,
    OUT metadata jsonb,
    OUT created_at timestamptz,
    OUT superseded uuid[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
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

-- End a run as if it had never been: its checkpoints go, and its thread shows what it held before. The caller holds the
-- thread, and no process writes for the run any more.
CREATE FUNCTION end_rolled_back(of_thread uuid, of_run uuid) RETURNS void LANGUAGE plpgsql AS $$
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

-- Close a run that a process executes, and its thread, by what tables/queue.py says of its end. False: the run is no
-- longer that process's. Without values the thread's stay. If a rollback was asked for meanwhile, the run is rolled back;
-- not in a batch, whose other statements still write for the run: then null, and nothing is done.
DROP FUNCTION finish_run(jsonb, json);
CREATE FUNCTION finish_run(ending jsonb, thread_values json, in_batch boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql SET enable_seqscan = off AS $$
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

-- Several, each with its thread's values, except of threads that another transaction holds: by run, as finish_run.
CREATE OR REPLACE FUNCTION finish_runs(endings jsonb[], thread_values json[]) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
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
