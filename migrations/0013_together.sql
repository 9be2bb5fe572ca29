-- Runs that are opened at once, and ends that come at once, each in one call: what a statement costs is shared. Nobody
-- waits in them for somebody else's thread: who holds one is left out, and its run is then opened or closed alone.

-- Each of `asked` as `open_run` has it, with its place from 1.
CREATE FUNCTION open_runs(asked jsonb[]) RETURNS TABLE (
    place int,
    thread_found boolean,
    new_thread boolean,
    busy_with uuid,
    status text,
    kept boolean,
    metadata jsonb,
    created_at timestamptz,
    superseded uuid[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    FOR number IN 1 .. cardinality(asked) LOOP
        IF is_held((asked[number] ->> 'thread_id')::uuid) THEN
            CONTINUE;
        END IF;
        RETURN QUERY SELECT number, opened.* FROM open_run(asked[number]) AS opened;
    END LOOP;
END
$$;

-- By run, whether it was still its worker's to close.
CREATE FUNCTION finish_runs(endings jsonb[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    ending jsonb;
    done jsonb := '{}';
BEGIN
    FOREACH ending IN ARRAY endings LOOP
        IF NOT is_held((ending ->> 'thread_id')::uuid) THEN
            done := done || jsonb_build_object(ending ->> 'run_id', finish_run(ending));
        END IF;
    END LOOP;
    RETURN done;
END
$$;

-- Lock a thread, unless somebody else has: then true. One that does not exist is nobody's.
CREATE FUNCTION is_held(thread uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM threads WHERE thread_id = thread FOR UPDATE SKIP LOCKED;
    RETURN NOT FOUND AND EXISTS (SELECT FROM threads WHERE thread_id = thread);
END
$$;

-- Close a run that a process executes, and its thread, by what tables/queue.py says of its end; false where the run is no
-- longer that process's. Without `values` the thread's stay.
CREATE FUNCTION finish_run(ending jsonb) RETURNS boolean LANGUAGE sql AS $$
    SELECT finish_run((ending ->> 'run_id')::uuid,
                      (ending ->> 'thread_id')::uuid,
                      (ending ->> 'worker_id')::uuid,
                      ending ->> 'status',
                      ending ->> 'thread_status',
                      ending -> 'values',
                      ending -> 'interrupts',
                      nullif(ending -> 'error', 'null'),
                      (ending ->> 'temporary_s')::float,
                      (ending ->> 'followed')::boolean,
                      (ending ->> 'remove')::boolean)
$$;
