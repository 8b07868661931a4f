"""The engines: one file each with `open_engine(folder)`, by rules read from its sources or by its real part.

`engine` is the interface and `catalog` finds an engine by its name. `transformers`.
"""
