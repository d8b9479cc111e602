"""Pages of runs and sweeps: one HTML file each, with everything inside it."""
