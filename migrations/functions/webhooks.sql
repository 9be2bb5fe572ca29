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
    ON CONFLICT (run_id) DO NOTHING;
    PERFORM pg_notify('threadkeep', 'webhook');
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER run_finished_webhook
 AFTER UPDATE OF status ON runs
   FOR EACH ROW
  WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.kwargs ? 'webhook')
EXECUTE FUNCTION enqueue_webhook();
