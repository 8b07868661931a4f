"""Conversations with tools, calls and thoughts, many of one shape at a time.

`outlined_calls.py` is what reading calls and tools depends on, `shape.py` a shape of conversations,
`shape_plan.py` how a template writes one.
"""
