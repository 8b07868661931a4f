"""The memory that a training step needs, measured on fake tensors.

Reading order: `estimate`, `step_plan`, `fake_model`, `step`, `kernels`, `tracker`. Start: `estimate.estimate_memory`.
"""
