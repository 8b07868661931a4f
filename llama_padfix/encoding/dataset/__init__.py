"""A whole dataset through an encoder: chunks, processes, a cache file that can be resumed.

Reading order: `encode`, `open_rows` (what holds rows) with `files` and `row_sequence`, `reader`, `workers`,
`parts`, `arrow_stream`, `shards`, `cache`, `stream`. Start: `encode.encode_dataset`.

`datasets.Dataset.map` does not take the place of these files: a run of it that stops keeps nothing, so the next call
begins at the first row, and its file holds no counts.
"""
