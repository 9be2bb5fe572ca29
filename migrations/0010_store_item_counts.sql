-- How many items of the store each principal has. The triggers of functions/store_items.sql keep it.
CREATE TABLE store_item_counts (
    principal text   PRIMARY KEY,
    items     bigint NOT NULL
);
COMMENT ON TABLE store_item_counts IS 'items of the store by the identity that put them first, of all projects';
