"""A saved tokenizer without transformers: `read` decides whether tokenizer.json is all of it, `stand_in` is then used.

Start: `read.read_generic`.
"""
