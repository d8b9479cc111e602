"""An HTTP server and a page over an index: `modiste serve`."""
