-- A graph's output schema says which part of its state a run answers with. The thread's row holds the whole state, for
-- search and for who reads the thread; the answer is taken from it when it is asked for.
ALTER TABLE runs ADD COLUMN output_keys jsonb;
COMMENT ON COLUMN runs.output_keys IS
    'keys of the thread''s values that the run answers with (an array), or the one whose value it is (a string);'
    ' JSON''s null: all; NULL: its graph did not come to an end';

-- What a run answers with, by the run's `keys`, of a thread that holds `state`. A run that was ended before its graph had an end has not said
-- which part that is: the thread's latest run that did says it.
CREATE FUNCTION output_of(state json, keys jsonb, of_thread uuid) RETURNS json LANGUAGE plpgsql STABLE
SET enable_seqscan = off AS $$
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

CREATE OR REPLACE FUNCTION finish_run(ending jsonb, thread_values json) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
    ended uuid := ending ->> 'run_id';
    of_thread uuid := ending ->> 'thread_id';
    failure jsonb := nullif(ending -> 'error', 'null');
    temporary_s float := ending ->> 'temporary_s';
    waiting boolean;
BEGIN
    PERFORM FROM threads WHERE thread_id = of_thread FOR UPDATE;
    PERFORM FROM runs
      WHERE run_id = ended AND status = 'running' AND worker_id = (ending ->> 'worker_id')::uuid
        FOR UPDATE;
    IF NOT FOUND OR NOT EXISTS (SELECT FROM witnesses WHERE worker_id = (ending ->> 'worker_id')::uuid) THEN
        RETURN false;
    END IF;
    waiting := EXISTS (SELECT FROM runs WHERE thread_id = of_thread AND status = 'pending');
    UPDATE threads
       SET status = CASE WHEN waiting THEN 'busy' ELSE ending ->> 'thread_status' END,
           "values" = coalesce(thread_values, "values"),
           interrupts = ending -> 'interrupts', error = failure, updated_at = now(), state_updated_at = now(),
           temporary_until = CASE WHEN temporary_s IS NULL THEN temporary_until
                                  ELSE greatest(temporary_until, now() + make_interval(secs => temporary_s)) END
     WHERE thread_id = of_thread;
    UPDATE runs -- last, for its webhook tells the thread's values
       SET status = ending ->> 'status', error = failure, output_keys = ending -> 'output_keys',
           finished_at = now(), updated_at = now(), worker_id = NULL
     WHERE run_id = ended;
    IF waiting THEN
        PERFORM pg_notify('threadkeep', 'pending');
    END IF;
    IF (ending ->> 'followed')::boolean THEN
        PERFORM pg_notify('threadkeep', 'run:' || ended);
    END IF;
    IF (ending ->> 'remove')::boolean THEN
        DELETE FROM runs WHERE run_id = ended;
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION leave_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, url, body)
    SELECT NEW.run_id,
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
