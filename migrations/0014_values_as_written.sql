-- What a thread holds is kept as it was written (json, not jsonb): each turn writes it whole, and who reads a thread hands
-- it on as it is. Taking it apart for each of these cost a long thread more than all else that a turn writes. Who searches
-- by it has it taken apart there, and only of the threads in which every word that is looked for stands.
ALTER TABLE threads ALTER "values" TYPE json USING "values"::json;

-- Compressed where that costs next to nothing (LZ4), else not at all: the checkpoints of a long thread take a hundred times
-- the place.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)) THEN
        EXECUTE 'ALTER TABLE threads ALTER "values" SET COMPRESSION lz4';
    ELSE
        ALTER TABLE threads ALTER "values" SET STORAGE EXTERNAL;
    END IF;
END
$$;

DROP FUNCTION finish_runs(jsonb[]);
DROP FUNCTION finish_run(jsonb);
DROP FUNCTION finish_run(uuid, uuid, uuid, text, text, jsonb, jsonb, jsonb, float, boolean, boolean);

-- Close a run that a process executes, and its thread, by what tables/queue.py says of its end; false where the run is no
-- longer that process's. Without values the thread's stay.
CREATE FUNCTION finish_run(ending jsonb, thread_values json) RETURNS boolean LANGUAGE plpgsql AS $$
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
       SET status = ending ->> 'status', error = failure, finished_at = now(), updated_at = now(), worker_id = NULL
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

-- Several, each with its thread's values, except of threads that somebody else holds: by run, whether it was still its
-- worker's to close.
CREATE FUNCTION finish_runs(endings jsonb[], thread_values json[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    done jsonb := '{}';
BEGIN
    FOR number IN 1 .. cardinality(endings) LOOP
        IF NOT is_held((endings[number] ->> 'thread_id')::uuid) THEN
            done := done || jsonb_build_object(endings[number] ->> 'run_id',
                                               finish_run(endings[number], thread_values[number]));
        END IF;
    END LOOP;
    RETURN done;
END
$$;
