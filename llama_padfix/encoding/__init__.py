"""From rows of any shape to `input_ids` and `labels`, -100 where a token is not trained.

Reading order: `row_formats` (a row's shape), `sources` (what kind of rows), `row_encoder` (one row) or `batch/`
(many), `encoder` (`ChatEncoder`), `dataset/` (a whole dataset), `collator` (a batch). Ids and labels are int32, one
row after another, with bounds; batches are int64 of shape (rows, width). Start: `encoder.ChatEncoder`.
"""
