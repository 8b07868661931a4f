"""What differs between the losses that trainers have: the shape of their rows and batches.

`batch_rows` finds rows of tokens in a batch of any loss, `documents` those of a packed row, `preferences` reads pairs
that are not encoded, `rollouts` the prompts of a trainer that samples its own completions, `tool_results` what it
appends behind a tool call. `own_loss` looks at a loss of the user's own.
"""
