-- Start a pending run of a graph that the process serves, or none. Principals are served round robin, and the runs of each
-- first in, first out. A run without authentication has the principal ''. It is the first run that may start of the next
-- principal after `after_principal`, or else of the first principal. The runs of the principals `held_back` and of other
-- graphs stay in the queue. A run waits while another run executes on its thread, or an earlier one is due there. A thread
-- that another transaction has locked is skipped.
CREATE OR REPLACE FUNCTION claim_run(
    claimer uuid,
    of_project text,
    served_graphs text[],
    positions_per_attempt int,
    after_principal text,
    held_back text[]
) RETURNS TABLE (
    run_id uuid,
    thread_id uuid,
    assistant_id uuid,
    graph_id text,
    metadata jsonb,
    kwargs jsonb,
    principal jsonb,
    attempt int,
    worker_id uuid,
    ephemeral boolean,
    record_events boolean,
    start_position int,
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

-- Seconds until a run may be claimed: a delayed run, or after `held_s` seconds a run whose thread another transaction has
-- locked. Runs of the principals `held_back` do not count, because they wait for a slot.
CREATE OR REPLACE FUNCTION seconds_to_next_run(
    of_project text,
    served_graphs text[],
    held_back text[],
    held_s float
) RETURNS float LANGUAGE plpgsql STABLE AS $$
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
