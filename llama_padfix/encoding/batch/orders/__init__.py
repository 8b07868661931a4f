"""Orders of roles that are written as their turns are in other orders, so that none of them is rendered by itself.

`reach.py` proves for a chat template what the text of a turn depends on, and `known_turns.py` keeps how turns were
written, and writes other orders with them. `alike.py` shows for orders with names or text parts that they are written
as those of roles and texts alone.
"""
