"""A chat rendered as an engine does it: jinja2 as transformers sets it up, with the engine's quirks one by one.

`chat` is what is rendered and what a quirk is; `environment` is jinja2 within limits; `render` applies quirks;
`quirks` are those that engines share, `messages` what servers do to messages and tools, `content_format` whether a
template reads content as parts.
"""
