"""Live objects to `Facts`: by encoding, rendering and trying, never by trusting an attribute.

One file for each kind of object: `tokenizer`, `model`, `trainer`, `rows`, `data`, `files`, `folder`, `environment`.
`snapshot` puts back what looking at a trainer moves. Start: `tokenizer.observe_tokenizer`.
"""
