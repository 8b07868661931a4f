"""From messages and a chat template to text in which the assistant's spans are known.

`profile` learns what a template writes around a turn, by rendering; `tag_pairs` finds the tags of a block, `messages`
the texts and calls of a message. Three strategies find the turns, the strongest evidence first: a constant prompt
(`turns`), who wrote each character (`traced_str`, `traced_policy`, `traced_render`, `trace`, `spans`), rendered
prefixes (`prefixes`). `render` holds the records and the refusals, `losses/` reports what a template leaves out.
`symbolic` runs a template on unknown text (`symbolic_str`), objects (`symbolic_slots`) and numbers
(`symbolic_value`), `dates` pins what it reads from the clock, `jinja_environment` is the sandbox of both.
Start: `turns.render_turns`.
"""
