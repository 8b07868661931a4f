"""Processors and tiny random models of vision families, on a byte tokenizer: no file of a hub is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.support.byte_tokenizer import make_byte_tokenizer
from tests.support.families import FOLDER, read

_MLLAMA = (
    "{{- bos_token }}{% for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.content is string %}{{- m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}{{- '<|image|>' }}{% elif part.type == 'text' %}{{- part.text }}{% endif %}"
    "{% endfor %}{% endif %}{{- '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_LLAMA4 = (
    "{{- bos_token }}{% for m in messages %}{{- '<|header_start|>' + m.role + '<|header_end|>\n\n' }}"
    "{% if m.content is string %}{{- m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}{{- '<|image|>' }}{% elif part.type == 'text' %}{{- part.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{- '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}"
)
_PIXTRAL = (
    "{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{- '[INST]' }}{% if m.content is string %}"
    "{{- m.content }}{% else %}{% for part in m.content %}{% if part.type == 'text' %}{{- part.text }}"
    "{% else %}{{- '[IMG]' }}{% endif %}{% endfor %}{% endif %}{{- '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{- m.content + eos_token }}{% endif %}{% endfor %}"
)
_GEMMA3 = (
    "{{- bos_token }}{% for m in messages %}{{- '<start_of_turn>' + m.role.replace('assistant', 'model') + '\n' }}"
    "{% if m.content is string %}{{- m.content | trim }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}{{- '<start_of_image>' }}{% else %}{{- part.text | trim }}{% endif %}{% endfor %}"
    "{% endif %}{{- '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"
)  # where the installed TRL ships none
_AUDIO = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAVA = (
    "{% for m in messages %}{{ m.role.upper() + ': ' }}"
    "{% for part in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m.content | selectattr('type', 'equalto', 'text') %}{{ part.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_IDEFICS = ("<image>", "<fake_token_around_image>", "<global-img>")
_QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

WITH_PIL = ("gemma3", "mllama")
ENCODED_WITH_PIL = ("llava", "llava_next", "idefics3")  # which are not trained here
ENCODED_WITH_TORCHVISION = ("gemma4",)
LEADS = dict.fromkeys(ENCODED_WITH_PIL, " ")
"""What an answer begins with, by family."""
WITH_TORCHVISION = ("qwen2_5_vl", "qwen3_vl", "pixtral", "llama4")
STOPS = {
    "gemma3": "<end_of_turn>",
    "mllama": "<|eot_id|>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
    "pixtral": "</s>",
    "llama4": "<|eot|>",
    "qwen2_audio": "<|im_end|>",
    "llava": " ",
    "llava_next": "</s>",
    "idefics3": "<end_of_utterance>",
    "gemma4": "<turn|>",
}
"""What an answer ends with, by family."""


def make_image(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_processor(family: str) -> Any:
    """A processor of the family, with small pictures; the test is skipped where it needs torchvision."""
    if family in WITH_TORCHVISION + ENCODED_WITH_TORCHVISION:
        pytest.importorskip("torchvision")
    return _MAKERS[family]()


def _pil(name: str) -> Any:
    """The image processor that needs Pillow alone, by whatever name the installed version has it."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _tokenizer(template: str, special: tuple[str, ...], eos: str, bos: str | None = None) -> Any:
    return make_byte_tokenizer((*special, "<pad>"), eos, template=template, bos=bos)


def _named(tokenizer: Any, **tokens: str) -> Any:
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _make_gemma3() -> Any:
    special = ("<start_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
    shipped = FOLDER / "gemma3.jinja"
    tokenizer = _tokenizer(read(shipped) if shipped.exists() else _GEMMA3, special, "<end_of_turn>", "<bos>")
    _named(tokenizer, image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    pictures = _pil("Gemma3ImageProcessor")(size={"height": 28, "width": 28})
    return transformers.Gemma3Processor(pictures, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4)


def _make_mllama() -> Any:
    special = ("<|start_header_id|>", "<|end_header_id|>", "<|image|>", "<|python_tag|>")
    tokenizer = _tokenizer(_MLLAMA, special, "<|eot_id|>", "<|begin_of_text|>")
    pictures = _pil("MllamaImageProcessor")(size={"height": 28, "width": 28}, max_image_tiles=4)
    return transformers.MllamaProcessor(pictures, tokenizer, chat_template=_MLLAMA)


def _make_qwen(version: str) -> Any:
    template = read(FOLDER / f"qwen{version}_vl.jinja")
    tokenizer = _tokenizer(template, _QWEN, "<|im_end|>")
    if version == "3":
        size = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 16}
        pictures = transformers.Qwen2VLImageProcessor(patch_size=16, size=size)
        videos = transformers.Qwen3VLVideoProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 64})
        return transformers.Qwen3VLProcessor(pictures, tokenizer, videos, chat_template=template)
    size = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 16}
    pictures, videos = transformers.Qwen2VLImageProcessor(**size), transformers.Qwen2VLVideoProcessor(**size)
    return transformers.Qwen2_5_VLProcessor(pictures, tokenizer, videos, chat_template=template)


def _make_pixtral() -> Any:
    special = ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = _tokenizer(_PIXTRAL, special, "</s>", "<s>")
    pictures = transformers.PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    return transformers.PixtralProcessor(
        pictures, tokenizer, patch_size=8, spatial_merge_size=2, chat_template=_PIXTRAL
    )


def _make_llama4() -> Any:
    names = ("header_start", "header_end", "image", "image_start", "image_end", "patch")
    special = tuple(f"<|{name}|>" for name in (*names, "tile_x_separator", "tile_y_separator"))
    tokenizer = _tokenizer(_LLAMA4, special, "<|eot|>", "<|begin_of_text|>")
    pictures = transformers.Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=4)
    return transformers.Llama4Processor(pictures, tokenizer, patch_size=7, chat_template=_LLAMA4)


def _make_qwen2_audio() -> Any:
    special = ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    sounds = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    return transformers.Qwen2AudioProcessor(sounds, _tokenizer(_AUDIO, special, "<|im_end|>"), chat_template=_AUDIO)


def _make_llava() -> Any:
    tokenizer = _tokenizer(_LLAVA, ("<image>",), "</s>", "<s>")
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    settings = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    pictures = _pil("CLIPImageProcessor")(**size)
    return transformers.LlavaProcessor(pictures, tokenizer, chat_template=_LLAVA, **settings)


def _make_llava_next() -> Any:
    template = read(FOLDER / "llava_next.jinja")
    tokenizer = _tokenizer(template, ("<image>", "[INST]", "[/INST]"), "</s>", "<s>")
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    pictures = _pil("LlavaNextImageProcessor")(**size, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]])
    settings = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaNextProcessor(pictures, tokenizer, chat_template=template, **settings)


def _make_idefics3() -> Any:
    template = read(FOLDER / "idefics3.jinja")
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
    tokenizer = _tokenizer(template, _IDEFICS + tiles, "<end_of_utterance>", "<|begin_of_text|>")
    names = dict(zip(("image_token", "fake_image_token", "global_image_token"), _IDEFICS, strict=True))
    edges = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    pictures = _pil("Idefics3ImageProcessor")(**edges)
    return transformers.Idefics3Processor(
        pictures, _named(tokenizer, **names), image_seq_len=4, chat_template=template
    )


def _make_gemma4() -> Any:
    template = read(FOLDER / "gemma4_v5.jinja")
    names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "video_token": "<|video|>"}
    names |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    special = ("<|turn>", "<|channel>", "<channel|>", "<|think|>", *names.values())
    tokenizer = _named(_tokenizer(template, special, "<turn|>", "<bos>"), **names)
    parts = (transformers.Gemma4AudioFeatureExtractor(), transformers.Gemma4ImageProcessor(), tokenizer)
    videos = transformers.Gemma4VideoProcessor()
    return transformers.Gemma4Processor(*parts, videos, chat_template=template, image_seq_length=70)


_MAKERS: dict[str, Callable[[], Any]] = {
    "gemma3": _make_gemma3,
    "mllama": _make_mllama,
    "qwen2_5_vl": functools.partial(_make_qwen, "2_5"),
    "qwen3_vl": functools.partial(_make_qwen, "3"),
    "pixtral": _make_pixtral,
    "llama4": _make_llama4,
    "qwen2_audio": _make_qwen2_audio,
    "llava": _make_llava,
    "llava_next": _make_llava_next,
    "idefics3": _make_idefics3,
    "gemma4": _make_gemma4,
}


def make_vision_model(family: str, processor: Any) -> Any:
    """A tiny random model of the family for a processor of `make_processor`."""
    tokenizer = processor.tokenizer
    token = tokenizer.convert_tokens_to_ids
    text = _TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    text |= {"bos_token_id": tokenizer.bos_token_id}
    if family == "gemma3":
        config: Any = transformers.Gemma3Config(
            text_config=text | {"head_dim": 16},
            vision_config=_VISION | {"image_size": 28, "patch_size": 7, "vision_use_head": False},
            mm_tokens_per_image=4,
            image_token_index=token("<image_soft_token>"),
            boi_token_index=token("<start_of_image>"),
            eoi_token_index=token("<end_of_image>"),
        )
        return transformers.Gemma3ForConditionalGeneration(config)
    if family == "mllama":
        grids = [[rows, columns] for rows in range(1, 5) for columns in range(1, 5) if rows * columns <= 4]
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "attention_heads": 2}
        vision |= {"num_global_layers": 1, "image_size": 28, "patch_size": 14, "vision_output_dim": 32}
        # transformers 4 takes no null there.
        rope = {} if hasattr(transformers, "MllamaImageProcessorPil") else {"rope_scaling": {"rope_type": "default"}}
        config = transformers.MllamaConfig(
            text_config=text | {"cross_attention_layers": [1], **rope},
            vision_config=vision | {"intermediate_layers_indices": [0], "supported_aspect_ratios": grids},
            image_token_index=token("<|image|>"),
        )
        return transformers.MllamaForConditionalGeneration(config)
    if family == "qwen2_audio":
        audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
        audio |= {"num_mel_bins": 8, "max_source_positions": 50}
        config = transformers.Qwen2AudioConfig(
            text_config=text | {"model_type": "qwen2"}, audio_config=audio, audio_token_index=token("<|AUDIO|>")
        )
        return transformers.Qwen2AudioForConditionalGeneration(config)
    return _make_large_family(family, text, token)


def _make_large_family(family: str, text: dict[str, Any], token: Callable[[str], int]) -> Any:
    if family == "pixtral":
        config: Any = transformers.Mistral3Config(
            text_config=text | {"model_type": "mistral", "head_dim": 16},
            vision_config=_VISION | {"model_type": "pixtral", "image_size": 64, "patch_size": 8, "head_dim": 8},
            image_token_index=token("[IMG]"),
            spatial_merge_size=2,
        )
        return transformers.Mistral3ForConditionalGeneration(config)
    if family == "llama4":
        projected = dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 16)
        config = transformers.Llama4Config(
            text_config=text | {"intermediate_size_mlp": 32, "num_local_experts": 2, "head_dim": 16},
            vision_config=_VISION | projected | {"intermediate_size": 64, "image_size": 28, "patch_size": 7},
            image_token_index=token("<|patch|>"),
            boi_token_index=token("<|image_start|>"),
            eoi_token_index=token("<|image_end|>"),
        )
        return transformers.Llama4ForConditionalGeneration(config)
    rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    ids = {f"{kind}_token_id": token(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{edge}_token_id": token(f"<|vision_{edge}|>") for edge in ("start", "end")}
    if family == "qwen2_5_vl":
        config = transformers.Qwen2_5_VLConfig(
            text_config=text | {"rope_scaling": rope}, vision_config=vision | {"fullatt_block_indexes": [0]}, **ids
        )
        return transformers.Qwen2_5_VLForConditionalGeneration(config)
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    config = transformers.Qwen3VLConfig(
        text_config=text | {"rope_scaling": rope | {"mrope_interleaved": True}, "head_dim": 16},
        vision_config=vision,
        **ids,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)
