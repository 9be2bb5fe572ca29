-- Log the previous content of rows in checkpoint_writes. Only the first entry for a row is kept.
CREATE OR REPLACE FUNCTION log_undo(entries run_undo_log[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO run_undo_log SELECT * FROM unnest(entries) ON CONFLICT DO NOTHING
$$;

-- Undo the writes of a run. The caller has locked the thread, and no other process executes the run.
CREATE OR REPLACE FUNCTION delete_run_checkpoints(of_thread uuid, of_run uuid) RETURNS void LANGUAGE plpgsql AS $$
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

-- Undo the writes of a run that a process executes, after all of them. False if another process owns the run.
CREATE OR REPLACE FUNCTION rollback_run(of_thread uuid, of_run uuid, holder uuid) RETURNS boolean LANGUAGE plpgsql AS $$
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

-- Delete a run and its checkpoints, and restore its thread's previous state. The caller has locked the thread, and no
-- process writes for the run any more.
CREATE OR REPLACE FUNCTION end_rolled_back_run(of_thread uuid, of_run uuid) RETURNS void LANGUAGE plpgsql AS $$
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
