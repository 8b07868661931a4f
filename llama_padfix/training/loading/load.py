"""A model and its tokenizer, loaded with the right keywords, patched, and ready to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_padfix.core.choices import Choice, announce
from llama_padfix.doctor.patch import patch_tokenizer
from llama_padfix.hardware.precision import Precision
from llama_padfix.training.adapters.lora import attach_lora, keep_trainable_float32, prepare_for_training
from llama_padfix.training.loading.checkpoint import load_tokenizer, require_rows, verify_ids
from llama_padfix.training.loading.plan import Backend, LoadPlan, naming_the_path, plan_load
from llama_padfix.training.loading.unsloth import attach_unsloth_lora, load_with_unsloth

__all__ = ["load"]


def load(
    name_or_path: str | Path,
    *,
    quantization: Any = None,
    precision: Precision | None = None,
    attention: str = "auto",
    lora: Any = None,
    device_map: Any = "auto",
    backend: Backend = "transformers",
    max_length: int | None = None,
    gradient_checkpointing: bool = True,
    strict: bool = False,
    pad_token: str = "auto",
    trust_remote_code: bool = False,
    seed: int = 0,
    verbose: bool = True,
    **from_pretrained: Any,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer from a folder or the hub, ready to train: `(model, tokenizer)`.

    - `quantization`: None, "nf4" (QLoRA), "int8", or a `BitsAndBytesConfig` of your own.
    - `precision`: what `choose_precision()` returns; None asks it.
    - `attention`: "auto", or a wish such as "flash_attention_2", which falls back with one warning.
    - `lora`: None, True, a `peft.LoraConfig`, or its fields; its first values depend on `seed` alone.
    - `device_map`: under torchrun and accelerate "auto" means the process's own device.
    - `max_length`: the longest row that you train on. It becomes the tokenizer's `model_max_length` (and Unsloth's
      `max_seq_length`), and is refused beyond the positions that the model has.
    - `strict`: raise where a wish cannot be met, rather than fall back.
    - `verbose`: print each choice with its reason, in the first process of a launch; else they are logged.

    Weights are bfloat16 where the device really has it. In an fp16 run the frozen ones are float16 and all that is
    trained is float32, or the gradient scaler stops with 'Attempting to unscale FP16 gradients'. A `dtype` (or
    `torch_dtype`) of your own is passed under the name that the installed transformers knows, as other keywords are
    to `AutoModelForCausalLM.from_pretrained`. Tokenizer and model are patched as by `patch_tokenizer`.

    Raises `PadfixError`, before any weight is read, for a folder without model or tokenizer, weights that are cut
    short, ids without a row, a target of LoRA that is not there, an unknown name, and a package that is missing.
    """
    plan = plan_load(
        name_or_path,
        quantization=quantization,
        precision=precision,
        attention=attention,
        lora=lora,
        device_map=device_map,
        backend=backend,
        max_length=max_length,
        gradient_checkpointing=gradient_checkpointing,
        strict=strict,
        trust_remote_code=trust_remote_code,
        **from_pretrained,
    )
    announce(plan.choices, verbose=verbose)
    tokenizer, healed = naming_the_path(
        plan.path, load_tokenizer, plan.path, strict=strict, **plan.tokenizer_arguments
    )
    require_rows(tokenizer, plan.config, plan.path)
    run = _load_unsloth if plan.backend == "unsloth" else _load_transformers
    model, tokenizer, done = run(plan, tokenizer, gradient_checkpointing, seed)
    patched = patch_tokenizer(tokenizer, model, pad_token=pad_token)
    said = [choice for choice in (healed, *done) if choice is not None]
    said += [Choice(change.target, repr(change.after), change.why) for change in patched]
    announce(said, verbose=verbose)
    return model, tokenizer


def _load_transformers(
    plan: LoadPlan, tokenizer: Any, gradient_checkpointing: bool, seed: int
) -> tuple[Any, Any, list[Any]]:
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained
    model = naming_the_path(plan.path, read, plan.path, **plan.model_arguments)
    done = prepare_for_training(
        model, quantized=plan.quantized, gradient_checkpointing=gradient_checkpointing, sharded=plan.sharded
    )
    if plan.lora is not None:
        on = done.taken != "off"
        model = attach_lora(model, plan.lora, plan.precision, gradient_checkpointing=on, seed=seed)
    return model, tokenizer, [done]


def _load_unsloth(
    plan: LoadPlan, tokenizer: Any, gradient_checkpointing: bool, seed: int
) -> tuple[Any, Any, list[Any]]:
    model, theirs = naming_the_path(plan.path, load_with_unsloth, plan.path, **plan.model_arguments)
    theirs, healed = verify_ids(theirs, plan.path, **plan.tokenizer_arguments)
    if plan.lora is not None:
        model = attach_unsloth_lora(model, plan.lora, gradient_checkpointing=gradient_checkpointing, seed=seed)
        keep_trainable_float32(model, plan.precision)
    return model, theirs, [healed]
