-- What nobody reads again is deleted after a time: the events of finished runs, and webhooks that could not be sent.
ALTER TABLE runs ADD COLUMN deleted_events_until integer;
COMMENT ON COLUMN runs.deleted_events_until IS 'its events up to this position were deleted; NULL: none were';
CREATE INDEX runs_events_to_delete ON runs (project_id, finished_at)
 WHERE finished_at IS NOT NULL AND record_events AND deleted_events_until IS NULL;

-- Webhooks are sent round robin over principals. Without a known principal: ''.
ALTER TABLE webhook_deliveries
    ADD COLUMN principal  text        NOT NULL DEFAULT '',
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX webhook_deliveries_principal ON webhook_deliveries (project_id, principal, send_after);
CREATE INDEX webhook_deliveries_created_at ON webhook_deliveries (project_id, created_at);
