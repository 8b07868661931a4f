"""Saved folders as runs leave them: a small byte-level tokenizer with Llama 3's control tokens, and a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama_padfix.demo.reference import RELEASES

CONTROLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
_TEMPLATES = Path(__file__).parents[2] / "llama_padfix" / "demo" / "templates"


def small_tokenizer(*, chat: bool = True, template: str = "llama3_1.jinja") -> Any:
    """Splits as Llama 3 does (numbers in threes), knows all bytes and four merges, and adds a BOS as released."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from llama_padfix.demo.reference import _PATTERN

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "123", "45", "12345"]
    merges = [("1", "2"), ("12", "3"), ("4", "5"), ("123", "45")]
    backend = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(CONTROLS))
    bos = CONTROLS[0]
    start = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), start])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="<|eot_id|>" if chat else "<|end_of_text|>",
        model_input_names=["input_ids", "attention_mask"],
    )
    if chat:
        tokenizer.chat_template = (_TEMPLATES / template).read_text(encoding="utf-8")
    return tokenizer


def small_model(tokenizer: Any, **overrides: Any) -> Any:
    """A model with the tokenizer's rows and the complete stop list."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    assert len(RELEASES["3.1-instruct"].eos_token_ids) == 3
    stops = sorted(tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]))
    settings: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32}
    settings |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    settings |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stops, **overrides}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=stops)
    return model


def save(folder: Path, tokenizer: Any = None, model: Any = None, **in_config: Any) -> Path:
    """Save as a script does; `in_config` is written into tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    if model is not None:
        model.save_pretrained(str(folder))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    if in_config:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | in_config))
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
