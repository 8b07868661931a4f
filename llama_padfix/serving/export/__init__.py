"""A copy of a folder that other engines read as the training did, as far as files can do that.

`export_for_serving` is the start. `training` reads what was trained, and `template` chooses what is saved: `rewrites`
are changes of a template's source that leave its text as it is, `json_macro` is the largest of them, `proof` shows
that they do. `settings` are the changes of the JSON files, `tokens` those of added tokens, and `beyond_files` what is
left to requests and to the command line.
"""
