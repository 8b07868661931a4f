"""What a chat template writes around a turn, learned by rendering probes.

`template_probes` holds the conversations that are rendered, `profile_rules` reads the generation prompt and the header
of the history from them, `stop_rules` what ends an answer, `constant_prompt` proves from the template's syntax tree
that its prompt is always the same, `template_profile` keeps the record. Start: `template_profile.observe_template`.
"""
