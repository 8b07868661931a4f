"""Live objects to `Facts`: by encoding, rendering and trying, never by trusting an attribute.

`target` starts it, with one function for each kind of target. The facts come from `tokenizer`, `model`, `trainer`,
`copies` (settings that a trainer keeps), `saved_tokenizer` (without transformers),
`batches` (drawn from a trainer's dataloaders), `rows` (encoded), `data` (raw), `folder` and `environment`. `losses/`
knows the rows of every kind of trainer. `snapshot` puts back what reading moves, as far as `reachable` finds it.
Start: `target.observe_target`.
"""
