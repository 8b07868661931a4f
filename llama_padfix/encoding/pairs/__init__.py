"""Answers that are compared or judged, from rows of any shape to the ids and labels of each.

Reading order: `shapes` (a row to its answers; with scores `ranking`), `join` (two encoded answers to one pair),
`encoder` (`PairEncoder`), `collator` (`PairCollator`).
"""
