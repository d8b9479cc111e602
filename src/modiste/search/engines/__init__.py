"""Storage engines of an index: memory-mapped snapshots, LanceDB, or a Qdrant server."""
