"""A Hugging Face tokenizer called without side effects.

Reading order: `calls` (ids of a text), `control` (control tokens), `bos` (one BOS) with `bos_rows` and `bos_arrow`,
`offsets` (ids to characters), `spelled` (control tokens that a text spells), `byte_level`, `backend`; the engines:
`engine` chooses among them; the sub-room `cached` and `fastokens` must prove themselves by `verification` and
`probe_texts`. Start: `calls`.
"""
