-- A trigger, so that every end of a run inserts its webhook, and a run without a webhook has no cost.
CREATE OR REPLACE FUNCTION enqueue_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, thread_id, project_id, principal, url, body)
    SELECT NEW.run_id,
           NEW.thread_id,
           NEW.project_id,
           coalesce(NEW.principal ->> 'identity', ''),
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
    ON CONFLICT (run_id, config_id) DO NOTHING;
    PERFORM pg_notify('threadkeep', 'webhook');
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER run_finished_webhook
 AFTER UPDATE OF status ON runs
   FOR EACH ROW
  WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.kwargs ? 'webhook')
EXECUTE FUNCTION enqueue_webhook();

-- Insert a delivery for each push notification config of a task whose newest run has ended or asks, or for one config. It has the
-- state, and the parts that the state does not keep: the open interrupts and the output. A later change of the same run takes the place of one
-- that is not sent yet.
CREATE OR REPLACE FUNCTION enqueue_task_pushes(of_run uuid, only_config text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO webhook_deliveries (run_id, config_id, thread_id, project_id, principal, url, body)
    SELECT runs.run_id, config_id, runs.thread_id, runs.project_id, task_pushes.principal, url,
           jsonb_build_object(
               'chain_id', runs.chain_id,
               'protocol', protocol,
               'state', chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts),
               'updated_at', runs.updated_at,
               'interrupts', threads.interrupts,
               'values', CASE WHEN NOT coalesce(kwargs -> 'stream_mode' ? 'messages-tuple', false)
                              THEN output_of(threads."values", output_keys, runs.thread_id)::jsonb END)
      FROM runs JOIN threads USING (thread_id) JOIN task_pushes USING (chain_id)
     WHERE runs.run_id = of_run AND runs.finished_at IS NOT NULL
       AND (only_config IS NULL OR config_id = only_config)
       AND NOT EXISTS (SELECT FROM runs AS later
                        WHERE later.chain_id = runs.chain_id AND later.queue_position > runs.queue_position)
    ON CONFLICT (run_id, config_id) DO UPDATE SET body = EXCLUDED.body, attempt = 0, send_after = now();
    IF FOUND THEN
        PERFORM pg_notify('threadkeep', 'webhook');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION push_finished_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enqueue_task_pushes(NEW.run_id);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER run_finished_task
 AFTER UPDATE OF status ON runs
   FOR EACH ROW
  WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.chain_id IS NOT NULL)
EXECUTE FUNCTION push_finished_task();
