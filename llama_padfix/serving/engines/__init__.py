"""The engines: one file each with `open_engine(folder)`, by rules read from its sources or by its real part.

`engine` is the interface, `catalogue` finds an engine by its name, `files` reads what several of them read. Run:
`transformers`, `minijinja`, `tgi` (minijinja as its router sets it up), `transformers_js` (`javascript/`). By rules:
`transformers_before` (5.20), `vllm`, `sglang`, `mlx_lm`, `ollama` and `llama_cpp` (`llamacpp/`), whose own tokenizer
runs where it is installed.
"""
