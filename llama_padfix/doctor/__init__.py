"""What is wrong with a tokenizer, model, trainer, dataset, batch or folder, and the changes that repair it.

`observe/` turns objects into plain `facts` (`row_facts` of rows, `model_facts` of a model, `folder_facts` of a folder,
`found_facts` of what was found beside them); `checks/` turn facts into `findings` with changes, helped by
`check_helpers` and `token_policy`; `runner` runs the checks; `fixing/` applies changes to live objects, `patch` those
of a tokenizer and its model, `repair_folder` to a copy of a folder; `report_formats` and `report_html` print a report,
`check_pages` the catalog. A check never reads a live object. Start: `diagnose.diagnose`.
"""
