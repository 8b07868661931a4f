"""A model and its tokenizer, loaded with the right keywords, patched, and ready to train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.choices import Choice, announce
from llama_padfix.doctor.patch import patch_tokenizer
from llama_padfix.hardware.precision import Precision
from llama_padfix.training.adapters.lora import attach_lora, keep_trainable_float32, prepare_for_training
from llama_padfix.training.loading.arguments import Backend, LoadSettings, name_path_in_errors
from llama_padfix.training.loading.checkpoint import load_tokenizer, require_all_found, require_rows, verify_ids
from llama_padfix.training.loading.plan import LoadPlan, plan_from_settings
from llama_padfix.training.loading.unsloth import attach_unsloth_lora, load_with_unsloth

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llama_padfix.core.types import DeviceMap, Lora, Quantization

    Pair = tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]


def load(
    name_or_path: str | Path,
    *,
    quantization: Quantization = None,
    precision: Precision | None = None,
    attention: str = "auto",
    lora: Lora = None,
    device_map: DeviceMap = "auto",
    backend: Backend = "transformers",
    max_length: int | None = None,
    gradient_checkpointing: bool = True,
    strict: bool = False,
    pad_token: str = "auto",
    trust_remote_code: bool = False,
    seed: int = 0,
    verbose: bool = True,
    **from_pretrained: object,
) -> Pair:
    """Load a causal language model and its tokenizer from a folder or the hub, ready to train.

    Args:
        name_or_path: A folder, or a name on the hub.
        quantization: None, "nf4" (QLoRA), "int8", or a `BitsAndBytesConfig`, which is used as it is.
        precision: What `choose_precision()` returns; None calls it.
        attention: "auto", or a kernel such as "flash_attention_2", which falls back with one warning.
        lora: None, True, a `peft.LoraConfig`, or its fields.
        device_map: Under torchrun and accelerate "auto" means the process's own device.
        backend: "transformers", or "unsloth", which loads the weights and attaches the adapter by its own functions.
        max_length: Most tokens of a row, at most the model's positions; it becomes the tokenizer's `model_max_length`.
        gradient_checkpointing: Compute activations again in the backward pass: less memory, more time.
        strict: Raise where a setting cannot be met, rather than fall back.
        pad_token: As for `patch_tokenizer`, which patches tokenizer and model.
        trust_remote_code: Run the code of a model from the hub.
        seed: Decides the first values of the adapter, alone.
        verbose: Print each decision with its reason, in the first process of a launch; else log it.
        from_pretrained: Those of `AutoModelForCausalLM.from_pretrained`; `dtype` and `torch_dtype` are one.

    Returns:
        `(model, tokenizer)`. Weights are bfloat16 where the device really has it. In an fp16 run the frozen ones
        are float16 and the trained ones float32: the gradient scaler refuses float16 gradients.

    Raises:
        PadfixError: Before any weight is read, for a folder that is incomplete, damaged or contradicts itself, weights
            that are in no file, ids without a row, a target of LoRA or a package that is absent, an unknown name.
    """
    settings = LoadSettings(
        quantization, precision, attention, lora, device_map, backend, max_length, gradient_checkpointing, strict
    )
    plan = plan_from_settings(name_or_path, settings, trust_remote_code=trust_remote_code, **from_pretrained)
    announce(plan.choices, verbose=verbose)
    with name_path_in_errors(plan.path):
        tokenizer, replaced = load_tokenizer(plan.path, strict=strict, **plan.tokenizer_arguments)
    require_rows(tokenizer, plan.config, plan.path)
    load_weights = _load_unsloth if plan.backend == "unsloth" else _load_transformers
    (model, tokenizer), done = load_weights(plan, tokenizer, gradient_checkpointing, seed)
    with name_path_in_errors(plan.path, "Fix that in generation_config.json."):
        patched = patch_tokenizer(tokenizer, model, pad_token=pad_token)
    announce([choice for choice in (replaced, done) if choice is not None], verbose=verbose)
    announce([Choice(change.target, repr(change.after), change.why) for change in patched], verbose=verbose)
    return model, tokenizer


def _load_transformers(
    plan: LoadPlan, tokenizer: PreTrainedTokenizerBase, gradient_checkpointing: bool, seed: int
) -> tuple[Pair, Choice | None]:
    from transformers import AutoModelForCausalLM

    with name_path_in_errors(plan.path):
        model, found = AutoModelForCausalLM.from_pretrained(
            plan.path, output_loading_info=True, **plan.model_arguments
        )
    if not plan.quantized:
        require_all_found(found["missing_keys"], plan.path)  # of the hub, and of files without headers
    done = prepare_for_training(
        model, quantized=plan.quantized, gradient_checkpointing=gradient_checkpointing, sharded=plan.sharded
    )
    if plan.lora is not None:
        on = done.taken != "off"
        model = attach_lora(model, plan.lora, plan.precision, gradient_checkpointing=on, seed=seed)
    return (model, tokenizer), done


def _load_unsloth(
    plan: LoadPlan, tokenizer: PreTrainedTokenizerBase, gradient_checkpointing: bool, seed: int
) -> tuple[Pair, Choice | None]:
    with name_path_in_errors(plan.path):
        model, tokenizer = load_with_unsloth(plan.path, **plan.model_arguments)
    tokenizer, replaced = verify_ids(tokenizer, plan.path, **plan.tokenizer_arguments)
    if plan.lora is not None:
        model = attach_unsloth_lora(model, plan.lora, gradient_checkpointing=gradient_checkpointing, seed=seed)
        keep_trainable_float32(model, plan.precision)
    return (model, tokenizer), replaced
