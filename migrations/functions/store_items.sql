-- Store items count for the principal that first put them, so that one principal can't fill the store. LangGraph creates the
-- table after our migrations, so the column is added here. Items without a principal, and items that are older than the
-- column, are not counted.
ALTER TABLE store ADD COLUMN IF NOT EXISTS principal text DEFAULT nullif(current_setting('threadkeep.principal', true), '');
COMMENT ON COLUMN store.principal IS 'identity that put the item first; NULL if authentication was off; in no column that an API shows';

-- Count puts and deletes for a principal until the transaction ends, with at most `max_items` items (NULL: unlimited). The
-- transactions of one principal run one after the other, so they do not deadlock on rows and counts.
CREATE OR REPLACE FUNCTION change_store_items(of_principal text, max_items bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('threadkeep store ' || of_principal, 0)),
            set_config('threadkeep.principal', of_principal, true),
            set_config('threadkeep.max_items', coalesce(max_items::text, ''), true);
END
$$;

-- The triggers run with the rights of the owner, so that a tenant can't change its count in another way.
-- TK003: the principal would have too many items.
CREATE OR REPLACE FUNCTION count_new_store_items() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    max_items CONSTANT bigint := nullif(current_setting('threadkeep.max_items', true), '')::bigint;
    added     record;
    total     bigint;
BEGIN
    FOR added IN
        SELECT principal, count(*) AS items FROM new_items WHERE principal IS NOT NULL GROUP BY principal ORDER BY principal
    LOOP
        INSERT INTO store_item_counts AS counts (principal, items)
        VALUES (added.principal, added.items)
            ON CONFLICT (principal) DO UPDATE SET items = counts.items + EXCLUDED.items
        RETURNING items INTO total;
        IF total > max_items THEN
            RAISE EXCEPTION 'a principal has % items; at most % are allowed', total, max_items USING ERRCODE = 'TK003';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION count_deleted_store_items() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT principal, count(*) AS items FROM old_items WHERE principal IS NOT NULL GROUP BY principal ORDER BY principal
    LOOP
        UPDATE store_item_counts SET items = items - gone.items WHERE principal = gone.principal;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER count_new_items AFTER INSERT ON store
   REFERENCING NEW TABLE AS new_items FOR EACH STATEMENT EXECUTE FUNCTION count_new_store_items();
CREATE OR REPLACE TRIGGER count_deleted_items AFTER DELETE ON store
   REFERENCING OLD TABLE AS old_items FOR EACH STATEMENT EXECUTE FUNCTION count_deleted_store_items();

-- Delete up to `max_items` expired items of one principal. Returns their number.
CREATE OR REPLACE FUNCTION delete_expired_store_items(max_items int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    of_principal text;
    deleted      int;
BEGIN
    SELECT principal INTO of_principal FROM store WHERE expires_at < now() ORDER BY expires_at LIMIT 1;
    IF of_principal IS NOT NULL THEN
        PERFORM change_store_items(of_principal, NULL);
    END IF;
    DELETE FROM store
     WHERE (prefix, key) IN (
        SELECT prefix, key FROM store
         WHERE expires_at < now() AND principal IS NOT DISTINCT FROM of_principal
         ORDER BY expires_at
         LIMIT max_items
           FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;

CREATE OR REPLACE FUNCTION forget_store_item_counts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM store_item_counts;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER forget_item_counts AFTER TRUNCATE ON store
   FOR EACH STATEMENT EXECUTE FUNCTION forget_store_item_counts();
