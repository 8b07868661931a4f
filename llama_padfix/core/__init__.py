"""What every room needs and no library does: the error type, printable text, decisions with their reason, versions.

Imports nothing heavy and knows nothing of chats. Reading order: `errors`, `text`, `files`, `weights`, `arrow`,
`types`, `html`, `records`, `kinds`, `choices`, `compat`, `hf_objects`, `version`, `llama_cpp`.
Start: `errors.PadfixError`.
"""
