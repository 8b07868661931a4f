"""What other engines do with a saved folder: the tokens that a server feeds against those that were trained.

`folder` reads what engines read, within limits. `rendering/` renders a chat as an engine does: the jinja2 of
transformers with quirks, each of which has the name of a cause. `engines/` has one file an engine.
`generation/` generates on held-back prompts and reports whether the answers end.
"""
