"""GGUF files: `header` reads the metadata, `vocabulary` makes a tokenizer and a stand-in for a model of it.

Start: `vocabulary.open_gguf`.
"""
