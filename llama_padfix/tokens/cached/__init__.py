"""The engine with a cache of words: a text is cut where no token can reach across, and each part is encoded once.

Reading order: `encoder` (the cache), `boundaries` (where a text can be cut), `pattern` (what a pre-tokenizer's pattern
joins), `added` (added tokens in a text). Start: `encoder`.
"""
