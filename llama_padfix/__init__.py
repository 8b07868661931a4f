"""Composable fixes that make Llama 3.x (and any chat model) fine-tune right the first time."""

__version__ = "0.1.0"
