-- Row-level security for requests, which switch to the role `threadkeep_tenant` in each transaction. Every other role, such
-- as the owner or a server's own role, sees all rows that its rights on the tables allow. So the policies of the tenant are
-- restrictive, and a permissive policy exists for everybody. This is a function, because LangGraph creates its tables after
-- ours, and because the migrating role may not have every right. It makes only the changes that are missing and allowed.
CREATE OR REPLACE FUNCTION enable_row_level_security() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    own       CONSTANT text := $e$project_id = current_setting('threadkeep.project', true)
 AND metadata @> nullif(current_setting('threadkeep.metadata_filter', true), '')::jsonb$e$;
    in_thread CONSTANT text := $e$EXISTS (SELECT FROM threads
 WHERE threads.thread_id = CASE WHEN %1$s.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                                THEN %1$s.thread_id::uuid END)$e$;
    in_space  CONSTANT text := $e$prefix ~>=~ current_setting('threadkeep.store_prefix_from', true)
 AND prefix ~<~ current_setting('threadkeep.store_prefix_to', true)$e$;
    own_tables CONSTANT text[] := ARRAY[
        'threads', 'runs', 'run_events', 'run_undo_log', 'assistants', 'assistant_versions', 'crons', 'checkpoints',
        'checkpoint_blobs', 'checkpoint_writes', 'store', 'store_vectors', 'task_pushes',
        -- Tables without policies, because requests also write rows without an owner. Requests can't read API keys.
        'idempotency_keys', 'webhook_deliveries', 'workers', 'crash_markers'];
    policy    record;
    relation  regclass;
BEGIN
    IF to_regrole('threadkeep_tenant') IS NULL THEN
        BEGIN
            CREATE ROLE threadkeep_tenant NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- the migration of another database was quicker
            WHEN insufficient_privilege THEN RETURN;
        END;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        BEGIN
            EXECUTE format('GRANT threadkeep_tenant TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error THEN NULL; -- another role may have granted it
        END;
    END IF;
    IF NOT has_schema_privilege('threadkeep_tenant', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO threadkeep_tenant', current_schema());
    END IF;
    FOR relation IN
        SELECT oid::regclass
          FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(own_tables)
           AND NOT has_table_privilege('threadkeep_tenant', oid, 'DELETE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO threadkeep_tenant', relation);
    END LOOP;

    FOR policy IN
        SELECT pg_class.oid::regclass AS relation, wanted.policy_name, wanted.command, wanted.seen,
               coalesce(wanted.written, wanted.seen) AS written, relrowsecurity,
               md5(concat_ws('|', 'restrictive', wanted.command, wanted.seen, wanted.written)) AS definition
          FROM (VALUES ('threads', 'tenant', 'ALL', own, NULL),
                       ('assistants', 'tenant_select', 'SELECT',
                        format('(%s) OR is_system AND project_id = %s', own,
                               $e$current_setting('threadkeep.project', true)$e$), NULL),
                       ('assistants', 'tenant_insert', 'INSERT', own, NULL),
                       ('assistants', 'tenant_update', 'UPDATE', own, NULL),
                       ('assistants', 'tenant_delete', 'DELETE', own, NULL),
                       ('assistant_versions', 'tenant', 'ALL',
                        $e$EXISTS (SELECT FROM assistants
 WHERE assistants.project_id = assistant_versions.project_id
   AND assistants.assistant_id = assistant_versions.assistant_id)$e$,
                        own),
                       ('crons', 'tenant', 'ALL', own, NULL),
                       ('runs', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM threads WHERE threads.thread_id = runs.thread_id)', NULL),
                       ('task_pushes', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM threads WHERE threads.thread_id = task_pushes.thread_id)', NULL),
                       ('run_events', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM runs WHERE runs.run_id = run_events.run_id)', NULL),
                       ('run_undo_log', 'tenant', 'ALL',
                        'EXISTS (SELECT FROM runs WHERE runs.run_id = run_undo_log.run_id)', NULL),
                       -- A copy inserts the thread and its checkpoints in one statement, which can't see either yet.
                       ('checkpoints', 'tenant', 'ALL', format(in_thread, 'checkpoints'), 'true'),
                       ('checkpoint_blobs', 'tenant', 'ALL', format(in_thread, 'checkpoint_blobs'), 'true'),
                       ('checkpoint_writes', 'tenant', 'ALL', format(in_thread, 'checkpoint_writes'), 'true'),
                       ('store', 'tenant', 'ALL', in_space, NULL),
                       ('store_vectors', 'tenant', 'ALL', in_space, NULL))
            AS wanted (name, policy_name, command, seen, written)
          JOIN pg_class ON pg_class.relname = wanted.name AND relnamespace = current_schema()::regnamespace
    LOOP
        IF NOT policy.relrowsecurity THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', policy.relation);
        END IF;
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_policy
             WHERE polrelid = policy.relation AND polname = policy.policy_name
               AND obj_description(oid, 'pg_policy') = policy.definition);
        EXECUTE format('DROP POLICY IF EXISTS %I ON %s', policy.policy_name, policy.relation);
        EXECUTE concat_ws(
            ' ', format('CREATE POLICY %I ON %s AS RESTRICTIVE', policy.policy_name, policy.relation),
            format('FOR %s TO threadkeep_tenant', policy.command),
            CASE WHEN policy.command <> 'INSERT' THEN format('USING (%s)', policy.seen) END,
            CASE WHEN policy.command NOT IN ('SELECT', 'DELETE') THEN format('WITH CHECK (%s)', policy.written) END);
        EXECUTE format('COMMENT ON POLICY %I ON %s IS %L', policy.policy_name, policy.relation, policy.definition);
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = policy.relation AND polname = 'everybody') THEN
            EXECUTE format('CREATE POLICY everybody ON %s USING (true) WITH CHECK (true)', policy.relation);
        END IF;
    END LOOP;
END
$$;
