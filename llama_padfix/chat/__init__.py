"""From messages and a chat template to text in which the assistant's spans are known.

Three strategies, the strongest evidence first: a constant prompt (`turns`), traced rendering (`traced_str`,
`traced_render`, `trace`, `spans`), rendered prefixes (`prefixes`). `symbolic` runs a template on unknown text, `dates`
pins what it reads from the clock. Start: `turns.render_turns`.
"""
