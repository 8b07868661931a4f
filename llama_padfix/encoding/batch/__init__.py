"""Many rows at once: one reading for each outline, one rendering for each sequence of roles, one engine call for all.

Reading order: `separable`, `cut_tokens`, `literals`, `render_plan`, `plan_arrays`, `outlines`, `opened`,
`chat_columns`, `flat_rows`, `encoder`, `texts`, `cross_check`; `tables/` for the columns of tables, `shapes/`
for rows with tools, or with messages in several parts, `orders/` for orders of roles that are composed of known turns.
Start: `encoder`.
"""
