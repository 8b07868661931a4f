"""What other engines do with a saved folder: the tokens that a server feeds against those that were trained.

`check_serving` is the start. `folder` reads what engines read, within `folder_limits`; `trained` the generation points
of rows of any of the `row_kinds`, or of `own_chats`. `comparison` compares ids at each point, `causes` names why they
differ, `stops` compares where an engine ends an answer. `findings` and `report` are what comes out; `faults/` holds
a page for each code. `rendering/` renders a chat as an engine does: the jinja2 of transformers with quirks, each of
which has the name of a cause. `engines/` has one file an engine, `live/` asks a server that runs, and `export/` writes
a copy for them. `before_training/` compares rows that are not trained yet. `generation/` generates on held-back
prompts and tells whether the answers end.
"""
