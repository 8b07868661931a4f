"""A llama.cpp model of one layer with the vocabulary of a folder, whose answer is known: "Yes" and an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llama_padfix.serving.engines.llamacpp.vocabulary import begin_file

WIDTH, INNER, CONTEXT = 32, 64, 1024


def write_model(folder: Path, file: Path, tokenizer: Any, end: str) -> None:
    """Write a model that answers "Yes" to every prompt, and `end` after each "Yes".

    The layer adds nothing: what comes next depends on the last token alone. Every token is one direction and "Yes"
    another; the first gives "Yes", the second the end.
    """
    writer = begin_file(folder, file)
    tokens = len(tokenizer)
    answer, last = tokenizer.convert_tokens_to_ids(["Yes", end])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_vocab_size(tokens)
    inputs = np.zeros((tokens, WIDTH), np.float16)
    inputs[:, 0] = 1
    inputs[answer] = np.eye(WIDTH)[1]
    outputs = np.zeros((tokens, WIDTH), np.float16)
    outputs[answer, 0] = outputs[last, 1] = 1
    square, wide, ones = np.zeros((WIDTH, WIDTH)), np.zeros((INNER, WIDTH)), np.ones(WIDTH)
    layer = {
        **dict.fromkeys(("attn_norm", "ffn_norm"), ones),
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), square),
        **dict.fromkeys(("ffn_gate", "ffn_up"), wide),
        "ffn_down": wide.T.copy(),
    }
    writer.add_tensor("token_embd.weight", inputs)
    writer.add_tensor("output.weight", outputs)
    writer.add_tensor("output_norm.weight", ones.astype(np.float32))
    for name, weight in layer.items():
        writer.add_tensor(f"blk.0.{name}.weight", weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
