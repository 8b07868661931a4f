"""From rows of any shape to `input_ids` and `labels`, -100 where a token is not trained.

Reading order: `encoder` (`ChatEncoder`) with its `settings`; `sources` (what kind of rows), `row_formats` (a row's
shape) with `reading/` (its parts), `loss_selection` (which messages are trained); `row_encoder` (one row: `chat_rows`
renders a conversation, `encoded_rows` labels and cuts) or `batch/` (many rows), held by `learned`; `counts` (what
became of rows), `record` (how they were encoded), `dataset/` (a whole dataset). Texts, and ids that exist already:
`id_columns`, `masking/`; those that a model sampled: `rollouts/`. A batch: `collator`. Several documents in a row:
`packing/`. Preferences: `pairs/`.

Ids and labels are int32, one row after another, with bounds; batches are int64 of shape (rows, width).
"""
