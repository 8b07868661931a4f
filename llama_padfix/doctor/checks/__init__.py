"""The catalogue: one trap a file, each a frozen `Check`."""
