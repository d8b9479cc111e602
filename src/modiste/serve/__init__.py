"""HTTP server and search page of an index: `modiste serve`."""
