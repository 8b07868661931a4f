"""Rows with images, videos and sounds, for models that have a processor.

Reading order: `parts` (which media a row holds, and where), `values` (a medium as the processor takes it), `processor`
(what the processor makes of placeholders and media), `forms` (the content that a template reads), `chats` (a
conversation to ids and labels), `encoder` (rows of any shape), `choose` (it, or that of a tokenizer), `dataset` (many
rows), `collator` (a batch with pixel values).
Start: `encoder.MediaEncoder`.
"""
