-- Runs of callers who are known are opened together too, each under row-level security of its own caller.
DROP FUNCTION open_runs(jsonb[]);

-- Each of `asked` as `open_run` has it, with its place from 1. `matches` is what the rows of each run's caller contain, as
-- JSON; empty: the server's own work. The role is the same for all, because after a change of role Postgres plans the
-- statements of a function anew; it ends with the transaction, and so do the settings.
CREATE FUNCTION open_runs(asked jsonb[], matches text[]) RETURNS TABLE (
    place int,
    thread_found boolean,
    new_thread boolean,
    busy_with uuid,
    status text,
    kept boolean,
    metadata jsonb,
    created_at timestamptz,
    superseded uuid[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
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
