"""The parts of a row in the names and types that chat templates know, or refused where they change what it means.

Reading order: `side_columns` (columns beside the conversation), `tool_calls`, `json_values`, `json_columns`.
"""
