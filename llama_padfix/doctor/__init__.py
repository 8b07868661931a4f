"""What is wrong with a tokenizer, model, trainer, dataset, batch or folder, and the changes that repair it.

`observe/` turns objects into plain `facts` (`row_facts` of rows, `model_facts` of a model); `checks/` turn facts into
`findings` with changes, helped by `check_helpers` and `token_policy`; `runner` runs the checks; `patch` applies
changes, `repair` until none are left, `repair_folder` to a copy of a folder; `report_formats` prints a report and
`check_pages` the catalogue. A check never reads a live object. Start: `diagnose.diagnose`.
"""
