"""Conversations with tools, calls and thoughts, many of one shape at a time.

`outlined_calls.py` is what reading calls and tools depends on, `outlined_thoughts.py` how texts are parted at the tags
of a thought, `shape.py` a shape of conversations, `left_out.py` the thoughts that a template leaves out of one,
`shape_turns.py` where the turns of one stand, and `shape_plan.py` how a template writes one.
"""
