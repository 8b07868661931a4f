"""A Hugging Face tokenizer called without side effects.

Reading order: `calls` (ids of a text), `control` (control tokens), `bos` (one BOS) with the sub-room `doubled`,
`offsets` (ids to characters), `token_bytes` and `span_encoder` (spans of many texts), `spelled` (control tokens that a
text spells), `byte_level`, `backend`; the engines: `engine` chooses among them; the sub-room `cached` and `fastokens`
must prove themselves by `verification` and `probe_texts`. Start: `calls`.
"""
