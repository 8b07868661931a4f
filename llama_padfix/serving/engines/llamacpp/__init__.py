"""llama.cpp by rules: `capabilities` probes a template as llama.cpp does, `messages` is what llama-server makes of a
request, `values` is how its Jinja writes, `specialized` is what it does for templates that it knows, `special_tokens`
has its stops and BOS.

`vocabulary` writes a GGUF file of a folder's vocabulary, and `run_vocabulary` runs llama.cpp's own tokenizer on it.
"""
