"""What is wrong with a tokenizer, model, trainer, dataset, batch or folder, and the changes that repair it.

`observe/` turns objects into plain facts, `checks/` turn facts into findings with changes, `runner` runs them, `patch`
applies the changes, `report_formats` prints the report. A check never sees a live object. Start: `diagnose.diagnose`.
"""
