"""The engine with a cache of words: a text is cut where no token can reach across, and each part is encoded once.

Reading order: `encoder` (the cache), `words` (what it holds), `boundaries` (where a text can be cut), `pattern` (what
a pre-tokenizer's pattern joins), `vocabulary` (what tokens join where there is no pattern), `indents` (which are words
there), `added` (added tokens in a text), `repeats` (whether the words of a text repeat). Start: `encoder`.
"""
