"""Which tokens are trained, as terminal text, notebook HTML or one self-contained page.

Reading order: `read_rows` (what was passed), `problems` (what the checks find), `pieces` and `roles` (tokens as text),
`document` (the data of a picture), `terminal` and `html` (which draw it; the page's script and style are in `page/`),
`batch_text` (one batch without checks).
Start: `mask_view.view_mask`.
"""
