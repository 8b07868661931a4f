"""What a chat template leaves out of a row, and how thoughts are kept.

`held` compares what a row holds with what the rendered text holds: `written` finds each text of a message in it.
`thoughts` knows how messages hold thoughts, and
finds the empty ones that a template writes. `keep` finds the arguments with which a template keeps every thought.
Start: `held.find_losses`.
"""
