"""Turns by who wrote each character of a rendered conversation.

`by_origin` is the strategy that `turns` tries second. `spans` finds each message's parts in the traced text: `parts`
holds what is known of one, `prompted` the prompt in front of it, `start_rules` and `end_rules` find where its turn
begins and ends, `results` an answer of a tool inside the turn, `filled` the place of an empty text, `silent` a message
without one, `lost` who wrote text of lost origin, and `spelled` the control tokens that a message only spells. Start:
`by_origin.find_by_origin`.
"""
