"""The JavaScript parts: `bridge` (with `bridge.mjs`) runs them in one node process, `quirks` are their causes by name."""
