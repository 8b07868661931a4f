"""Live objects to `Facts`: by encoding, rendering and trying, never by trusting an attribute.

`target` starts it and tells apart what was given; `observation` is what comes of it: `run` of a trainer, `given` of a
tokenizer, a model and rows, `saved` of a folder or a GGUF file (`gguf/`). The facts come from `tokenizer`, `model`,
`trainer` and its `copies` (settings that a trainer keeps), `batches` (drawn from dataloaders, with `loader`), `rows`
(encoded), `data` (raw), `folder` with `saved_tokenizer` (without transformers), and `environment`. `tokenizer_search`
finds the tokenizer of a run. `snapshot` puts back what reading moves, as far as `reachable` finds it. Start:
`target.observe_target`.
"""
