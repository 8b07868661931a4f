"""Training configs and scripts of other tools, read and never run: what their keywords alone show.

`settings` holds a keyword with its place. `read_yaml` reads a config of Axolotl, LLaMA-Factory or ms-swift. `families`
knows the tokens of model families by name. `yaml_rules` and `script_rules` find faults, with the codes of the catalog,
the latter in a syntax tree. `check_file` is the start; `drawing` draws a fault under its line.
"""
