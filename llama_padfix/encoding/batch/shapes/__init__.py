"""Conversations with tools, calls and thoughts, many of one shape at a time.

`outlined_calls.py` is what reading calls and tools depends on; `shape_plan.py` how a template writes a shape.
"""
