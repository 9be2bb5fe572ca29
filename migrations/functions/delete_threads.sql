-- Delete threads of the project whose metadata contains `match`, with their runs, events, checkpoints, crons and webhooks.
-- Returns the deleted ids. It waits for runs that are writing now. Later writes of the runs are refused.
CREATE OR REPLACE FUNCTION delete_threads(of_project text, thread_ids uuid[], match jsonb) RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
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
