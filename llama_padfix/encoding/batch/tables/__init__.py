"""The rows of an Arrow table, read column by column.

Start: `outline_columns`, which tells the outlines of rows apart and takes their texts.
"""
