"""The parts of vLLM, SGLang and mlx-lm that make a prompt of a request: their own code, with all that serves left out.

`pure` loads a few modules of a package and puts empties in the place of the others; `vllm`, `sglang` and `mlx_lm` give
what a template would get of a chat.
"""
