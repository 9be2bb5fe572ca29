-- Postgres keeps the plan of a statement in a function until its tables are next analyzed. One that was made while a table
-- was small reads it from one end to the other, for each run, while it grows: in the first minutes of a new database, and
-- after a large deletion. These functions look rows up by key alone.
ALTER FUNCTION open_run(jsonb) SET enable_seqscan = off;
ALTER FUNCTION open_runs(jsonb[]) SET enable_seqscan = off;
ALTER FUNCTION finish_run(jsonb, json) SET enable_seqscan = off;
ALTER FUNCTION finish_runs(jsonb[], json[]) SET enable_seqscan = off;
