-- How many crons and assistants a principal has is counted before it gets one more.
ALTER TABLE assistants ADD COLUMN principal text;
COMMENT ON COLUMN assistants.principal IS 'identity of its creator; NULL if authentication was off; in no column that an API shows';
CREATE INDEX assistants_principal ON assistants (project_id, principal) WHERE principal IS NOT NULL;
CREATE INDEX crons_principal ON crons (project_id, (principal ->> 'identity')) WHERE principal IS NOT NULL;
