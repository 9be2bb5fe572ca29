-- Room in each page of `threads` for what its rows grow to. The first run of a thread adds the values to its row. If the new
-- version of the row fits into the same page, Postgres writes none of the table's indexes again (a heap-only tuple). Pages
-- that inserts fill whole leave no such room: with 12 runs at once on new threads, a third of the updates found some.
ALTER TABLE threads SET (fillfactor = 40);
