-- When a thread's time to live last took its old checkpoints (`keep_latest`), which does not touch `updated_at`.
ALTER TABLE threads ADD COLUMN ttl_swept_at timestamptz;
