"""What differs between the losses that trainers have: the shape of their rows and batches.

`batch_rows` finds rows of tokens in a batch of any loss, `preferences` reads pairs that are not encoded, `rollouts`
reads the prompts of a trainer that samples its own completions.
"""
