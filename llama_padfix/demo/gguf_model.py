"""A GGUF file of a trained Llama with its weights, as llama.cpp's converter lays them out, by the package `gguf`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.serving.engines.llamacpp.vocabulary import begin_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_model(model: PreTrainedModel, folder: Path, file: Path) -> None:
    """Write the vocabulary of a folder and the weights of a model in float32.

    Args:
        model: A Llama. Of tied embeddings one is written, as llama.cpp expects.
        folder: Holds the saved tokenizer.
        file: The file to write.

    Raises:
        GgufMissingError: `gguf` is not installed, or the kind of tokenizer is not known.
    """
    writer = begin_file(folder, file)
    gguf: Any = importlib.import_module("gguf")  # without annotations for its enums
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta}  # before transformers 5
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.detach().float().cpu()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # transformers rotates the halves of a head, llama.cpp its pairs of neighbors.
            count = heads if "q_proj" in name else groups
            weight = weight.view(count, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
