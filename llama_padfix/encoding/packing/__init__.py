"""Several encoded documents in one row, so that a batch holds hardly any padding.

Reading order: `bins` (which documents share a row), `pack` (a dataset of such rows), `collator` (a batch in which each
document keeps position ids of its own), `isolation` (whether a model then keeps the documents apart).
Start: `pack.pack_rows`.
"""
