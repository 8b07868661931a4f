"""What is done with a trained model afterwards, compared with what was trained.

`generation/` generates on held-back prompts and tells whether the answers end.
"""
