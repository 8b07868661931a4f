"""Rollouts of several turns: ids and the mask of what the model sampled, without encoding a sampled id again.

Reading order: `joined` (a rollout from its parts), `written` (what the chat template writes in front of a turn),
`retokenized` (where the messages of a rollout, rendered and encoded, give other ids). Start: `joined.join_rollout`.
"""
