-- Whose it is. The owner stands in the metadata of each row; here is what metadata can't hold, and a second wall.

ALTER TABLE assistants ADD COLUMN of_graph boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN assistants.of_graph IS 'the assistant that a graph has of its own: everybody may read it and run it';
UPDATE assistants SET of_graph = true WHERE metadata @> '{"created_by": "system"}';

ALTER TABLE crons ADD COLUMN filters jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(filters) = 'object');
COMMENT ON COLUMN crons.filters IS 'what whoever made it may see; its runs see no more';

-- Row-level security for requests, which switch to the role `threadkeep_tenant` in each transaction. The owner of the
-- tables, which is the server, sees everything. A function, because the checkpointer's and the store's tables are made
-- after ours, and perhaps later still: it is called after every migration, and does what is left to do.
CREATE FUNCTION raise_wall() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    own       CONSTANT text := $e$metadata @> nullif(current_setting('threadkeep.match', true), '')::jsonb$e$;
    in_thread CONSTANT text := $e$EXISTS (SELECT FROM threads
 WHERE threads.thread_id = CASE WHEN %1$s.thread_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                                THEN %1$s.thread_id::uuid END)$e$;
    in_space  CONSTANT text := $e$prefix ~>=~ current_setting('threadkeep.space_from', true)
 AND prefix ~<~ current_setting('threadkeep.space_to', true)$e$;
    policy    record;
    named     name;
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
        EXCEPTION WHEN insufficient_privilege OR unique_violation OR internal_error THEN NULL; -- granted by others, or not
        END;
    END IF;
    IF NOT has_schema_privilege('threadkeep_tenant', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO threadkeep_tenant', current_schema());
    END IF;

    -- Requests also note what is nobody's (idempotency keys, wake-ups, webhooks to be sent); of API keys they see nothing.
    FOR named IN
        SELECT relname FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND pg_get_userbyid(relowner) = current_user
           AND relname <> 'api_keys' AND relname NOT LIKE '%migrations'
           AND NOT has_table_privilege('threadkeep_tenant', oid, 'DELETE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO threadkeep_tenant', named);
    END LOOP;

    FOR policy IN
        SELECT wanted.*
          FROM (VALUES ('threads', own, own),
                       ('assistants', own, own),
                       ('assistant_versions',
                        'EXISTS (SELECT FROM assistants WHERE assistants.assistant_id = assistant_versions.assistant_id)',
                        own),
                       ('crons', own, own),
                       ('runs', 'EXISTS (SELECT FROM threads WHERE threads.thread_id = runs.thread_id)', NULL),
                       ('run_events', 'EXISTS (SELECT FROM runs WHERE runs.run_id = run_events.run_id)', NULL),
                       -- A copy writes the thread and its checkpoints in one statement, which sees neither yet.
                       ('checkpoints', format(in_thread, 'checkpoints'), 'true'),
                       ('checkpoint_blobs', format(in_thread, 'checkpoint_blobs'), 'true'),
                       ('checkpoint_writes', format(in_thread, 'checkpoint_writes'), 'true'),
                       ('store', in_space, NULL),
                       ('store_vectors', in_space, NULL)) AS wanted (name, seen, written)
          JOIN pg_class ON pg_class.oid = to_regclass(wanted.name)
         WHERE NOT relrowsecurity
            OR NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'tenant')
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', policy.name);
        CONTINUE WHEN EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(policy.name) AND polname = 'tenant');
        EXECUTE format('CREATE POLICY tenant ON %I TO threadkeep_tenant USING (%s) WITH CHECK (%s)',
                       policy.name, policy.seen, coalesce(policy.written, policy.seen));
        IF policy.name = 'assistants' THEN
            CREATE POLICY tenant_of_graph ON assistants FOR SELECT TO threadkeep_tenant USING (of_graph);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION raise_wall() IS 'row-level security, as far as the role that migrates may';
