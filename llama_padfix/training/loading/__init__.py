"""A checkpoint to a model and tokenizer that are ready to train: planned first, then loaded.

Reading order: `plan`, `arguments`, `config_fields`, `checkpoint`, `quantization`, `load`, `unsloth`. Start:
`plan.plan_load`.
"""
