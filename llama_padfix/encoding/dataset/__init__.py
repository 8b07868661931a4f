"""A whole dataset through an encoder: chunks, processes, a cache file that can be resumed.

Reading order: `encode`, `reader`, `workers`, `arrow_stream`, `cache`. Start: `encode.encode_dataset`.
"""
