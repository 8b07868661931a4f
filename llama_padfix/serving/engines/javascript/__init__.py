"""The JavaScript parts: `bridge` (with `bridge.mjs`) runs them in one node process, `quirks` are causes by name."""
