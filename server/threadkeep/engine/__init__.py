"""What executes: runs, their live streams, the queue's worker. Knows no HTTP."""
