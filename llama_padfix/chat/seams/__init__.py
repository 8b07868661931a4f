"""The generation prompts behind every beginning of a conversation, from one rendering of the whole.

`same_state` reads in a template's syntax tree that its loop over the messages looks at no later one, `note_prompts`
has such a template say in front of each answer what it would write if the conversation ended there, and `noted` keeps
that. Start: `noted.Prompts`.
"""
