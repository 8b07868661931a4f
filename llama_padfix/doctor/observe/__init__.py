"""Live objects to `Facts`: by encoding, rendering and trying, never by trusting an attribute.

`target` starts it, with one function for each kind of target. The facts come from `tokenizer`, `model`, `trainer`
and the `trainer_parts` that it holds, `copies` (settings that a trainer keeps), `saved_tokenizer` (without
transformers), `batches` (drawn from a trainer's dataloaders), `rows` (encoded), `data` (raw), `folder` (with `adapter`
for one that holds an adapter) and `environment`. `losses/` knows the rows of every kind of trainer. `snapshot` puts
back what reading moves, as far as `reachable` finds it. Start: `target.observe_target`.
"""
