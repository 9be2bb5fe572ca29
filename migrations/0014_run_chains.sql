-- Chains of runs: a run that asks a question, and the runs that answer it, are one task of MCP or A2A. The mark names its own
-- run, so that neither a client nor the metadata of the thread can make a run a part of a chain.
ALTER TABLE runs ADD COLUMN chain_id uuid GENERATED ALWAYS AS (
    CASE WHEN metadata -> 'chain' ->> 'run_id' = run_id::text THEN (metadata -> 'chain' ->> 'id')::uuid END
) STORED;
COMMENT ON COLUMN runs.chain_id IS 'id of the first run of its chain; NULL: it is in no chain';
CREATE INDEX runs_chain_id ON runs (chain_id, queue_position) WHERE chain_id IS NOT NULL;
CREATE INDEX runs_chain_message ON runs (thread_id, (metadata -> 'chain' ->> 'message_id')) WHERE chain_id IS NOT NULL;
CREATE INDEX runs_chain_assistant ON runs (project_id, assistant_id, updated_at DESC, run_id DESC)
 WHERE chain_id IS NOT NULL;
