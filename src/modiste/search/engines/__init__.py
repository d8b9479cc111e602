"""Where an index keeps its rows: memory-mapped snapshots, LanceDB, or a Qdrant server."""
