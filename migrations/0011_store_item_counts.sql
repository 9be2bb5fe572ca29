-- The number of store items of each principal. The triggers of functions/store_items.sql update it. The table of the items
-- itself is LangGraph's.
CREATE TABLE store_item_counts (
    principal text   PRIMARY KEY,
    items     bigint NOT NULL
);
COMMENT ON TABLE store_item_counts IS 'store items of all projects by the identity that first put them';
