"""Each kind of target as an `observation`.

`run` observes a trainer, `given` a tokenizer, a model and rows in any combination, `saved` a folder or a GGUF file.
`tokenizer_search` finds the tokenizer of a run, `held_ids` the pad ids that its collate function keeps. Start:
`observation`.
"""
