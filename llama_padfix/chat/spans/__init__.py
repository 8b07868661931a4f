"""Turns by who wrote each character of a rendered conversation.

`by_origin` is the strategy that `turns` tries second. `spans` finds each message's parts in the traced text, `rules`
where a part's turn begins and ends, `silent` the turn of a message without characters, `spelled` the control tokens
that a message only spells. Start: `by_origin.find_by_origin`.
"""
