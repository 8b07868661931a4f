"""One BOS too many: where rows have it, and how each kind of rows is cut.

Reading order: `runs` (where a row starts and what is too many), `lists` (a batch of plain lists, in one pass), `rows`
(rows of lists, arrays and tensors), `rectangle` (2-D arrays and tensors), `arrow` (tables, datasets). Start: `rows`.
"""
