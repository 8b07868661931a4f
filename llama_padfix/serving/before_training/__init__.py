"""Rows before they are trained, against what an engine will feed: what `prepare(..., serve_with=...)` does.

`rows_check` compares the first rows of a dataset and says once what differs; `proposals` tries arguments and templates
with which they would be the same.
"""
