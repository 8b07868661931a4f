"""Llama 3.1 in small: its control tokens, template and automatic BOS over a vocabulary of bytes, and tiny models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing

from llama_padfix import demo
from tests.support.byte_tokenizer import make_byte_tokenizer

BOS, TEXT_END, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
SPECIAL = (
    *(BOS, TEXT_END, "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", TURN_END, "<|python_tag|>", "<|reserved_special_token_0|>"),
)


@cache
def read_template(name: str = "llama3_1") -> str:
    return Path(demo.__path__[0], "templates", f"{name}.jinja").read_text(encoding="utf-8")


def small_tokenizer(*, base: bool = False, template: str | None = None) -> Any:
    """A stock tokenizer, without a pad token: of the base model, or of the Instruct model with its template."""
    given = template if template is not None else None if base else read_template()
    tokenizer = make_byte_tokenizer(SPECIAL, TEXT_END if base else TURN_END, template=given, bos=BOS)
    bos = (BOS, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{BOS} $A", f"{BOS} $A {BOS} $B", [bos])
    tokenizer.model_max_length = 1024
    return tokenizer


@cache
def shared_small(name: str = "llama3_1") -> Any:
    """A small tokenizer with a template and a pad token that no test may change."""
    tokenizer = small_tokenizer(template=read_template(name))
    tokenizer.pad_token = TEXT_END
    return tokenizer


def small_model(tokenizer: Any, *, base: bool = False, scores: bool = False) -> Any:
    """A model with the stop list of the release, in one layer; with `scores` a reward model."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    stops = tokenizer.convert_tokens_to_ids([TEXT_END] if base else [TEXT_END, "<|eom_id|>", TURN_END])
    stop = stops[0] if base else stops
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if scores:
            config.num_labels = 1
            return LlamaForSequenceClassification(config)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=stop)
    return model
