"""A Hugging Face tokenizer called without side effects.

Reading order: `calls` (ids of a text), `control` (control tokens), `bos` (one BOS) with `bos_rows` and `bos_arrow`,
`offsets` (ids to characters), `spelled` (control tokens that a text spells), `byte_level`, `backend`, then the second
engine, which must prove itself: `engine`, `fastokens`, `verification`, `probe_texts`. Start: `calls`.
"""
