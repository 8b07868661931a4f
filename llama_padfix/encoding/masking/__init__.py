"""Labels for texts, and for ids that exist already: the turns are found among the ids by their markers.

Reading order: `turns_in_ids` (`TurnMarkers`, and where turns stand), `labels` (`find_markers`, `mask_labels`),
`learned_markers` (markers fitted to the encoder's labels of the conversations in `marker_probes`), `labels_from_ids`
(many rows at once), `completion_collator` (the collator of older scripts); `text_rows` encodes a
text, and `rendered_text` finds the turns of one that is a chat.
Start: `labels.mask_labels`.
"""
