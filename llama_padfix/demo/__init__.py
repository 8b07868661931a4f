"""The demo: two training scripts side by side, on Llama 3.x tokenizers built from the real vocabulary.

`reference` builds the tokenizers and tiny models, `run` trains and measures. Start: `run.run_demo`. `in_llama_cpp`
runs the trained models in llama.cpp, from files that `gguf_model` writes. `tiny` makes the model, tokenizer and
conversations that the pages of docs/ run on.
"""
