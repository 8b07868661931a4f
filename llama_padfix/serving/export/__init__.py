"""A copy of a folder that other engines read as the training did, as far as files can do that.

`export_for_serving` is the start, and `template` chooses what is saved. `rewrites` are changes of a template's source
that leave its text as it is, `proof` shows that they do; `settings` are the changes of the JSON files, and `commands`
what is left to the command line.
"""
