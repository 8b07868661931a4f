"""Many conversations at once: one rendering for each sequence of roles, one engine call for thousands of rows.

Reading order: `separable`, `cut_tokens`, `render_plan`, `plan_arrays`, `chat_columns`, `encoder`, `cross_check`.
Start: `encoder`.
"""
