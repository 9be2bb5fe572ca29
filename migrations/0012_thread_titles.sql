-- Titles of threads, which can be searched by words. The title changes once in the life of most threads, so that a turn still
-- changes a row in place.
ALTER TABLE threads
    ADD COLUMN first_message text,
    ADD COLUMN title text GENERATED ALWAYS AS (left(coalesce(nullif(metadata ->> 'title', ''), first_message), 120)) STORED;
COMMENT ON COLUMN threads.first_message IS 'beginning of the first human message in `messages` of an input or of the state';
COMMENT ON COLUMN threads.title IS '`title` of the metadata, or else the first message';
CREATE INDEX threads_title ON threads USING gin (to_tsvector('simple', title)) WHERE title IS NOT NULL;
