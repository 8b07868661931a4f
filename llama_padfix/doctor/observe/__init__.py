"""Live objects to `Facts`: by encoding, rendering and trying, never by trusting an attribute.

`target` starts it and tells apart what was given; `targets/` has a file for each kind. The facts come from
`tokenizer`, `model`, `trainer` with its `trainer_parts` and `copies` (settings that a trainer keeps),
`batches` (drawn from dataloaders, with `loader`), `rows` (encoded), `data` (raw, read by `raw_rows`), `folder` with
`adapter` and `saved_tokenizer` (without transformers), `gguf/` and `environment`. `losses/` knows the rows of every
kind of trainer. `snapshot` puts back what reading moves, as far as `reachable` finds it.
Start: `target.observe_target`.
"""
