"""LoRA, added tokens, and the rows of the embedding that are trained.

Reading order: `lora`, `row_training`, `added_tokens`, `used_ids`, `untrained_rows`. Start: `lora`.
"""
