"""An HTTP server and a search page for an index: `modiste serve`."""
