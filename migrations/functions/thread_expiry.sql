-- Only threads with a time to live have an `expires_at`, and so an entry in its index.
CREATE OR REPLACE FUNCTION set_thread_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.expires_at := NEW.updated_at + make_interval(secs => NEW.ttl_minutes * 60);
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER thread_expiry BEFORE INSERT OR UPDATE ON threads
   FOR EACH ROW WHEN (NEW.ttl_minutes IS NOT NULL OR NEW.expires_at IS NOT NULL) EXECUTE FUNCTION set_thread_expiry();
