"""Which tokens are trained, as terminal text, notebook HTML or one self-contained page.

Reading order: `read_rows`, `pieces`, `roles`, `document` (the data), `terminal` and `html` (which draw it).
Start: `mask_view.view_mask`.
"""
