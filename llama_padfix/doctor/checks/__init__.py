"""The catalog: one trap a file, each a frozen `Check`."""
