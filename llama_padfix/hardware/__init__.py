"""What the process can compute with: bf16 or not and why, which attention kernel, which optimizer, which device map.

Reading order: `precision`, `attention`, `optimizers`, `devices`, `distributed`,
`random_states`. Start: `precision.choose_precision`.
"""
