"""What a real training run allocates: two updates by the Trainer, watched by torch's profiler or CUDA's counter."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any


def make_config(**overrides: Any) -> Any:
    """A Llama that is small in everything but its vocabulary."""
    from transformers import LlamaConfig

    settings = {
        "vocab_size": 128_256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "use_cache": False,
    }
    return LlamaConfig(**{**settings, **overrides})


def measure_run(
    config: Any,
    *,
    batch: int,
    length: int,
    gradient_accumulation_steps: int = 1,
    quantization: str | None = None,
    lora: Any = None,
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
    optimizer: str = "adamw_torch",
    attention: str = "sdpa",
    device: str = "cpu",
) -> int:
    """The most bytes that live at once while a Trainer makes two updates, the model's own among them."""
    import torch
    from transformers import Trainer, TrainingArguments

    from llama_padfix.hardware.precision import Precision
    from llama_padfix.training.adapters.lora import attach_lora, choose_lora, prepare_for_training

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    chosen = Precision(dtype, bf16=precision == "bf16", fp16=precision == "fp16", max_grad_norm=1.0, reason="")
    model = _make_model(config, quantization, chosen, attention, device)
    prepare_for_training(model, quantized=quantization is not None, gradient_checkpointing=gradient_checkpointing)
    adapter, _ = choose_lora(lora, model)
    if adapter is not None:
        model = attach_lora(model, adapter, chosen, gradient_checkpointing=gradient_checkpointing)
    updates = 2
    rows = [{"n": batch > 1 and index % batch == 1} for index in range(batch * gradient_accumulation_steps * updates)]

    def collate(part: list[Mapping[str, Any]]) -> dict[str, Any]:
        ids = torch.randint(0, min(1000, config.vocab_size), (len(part), length))
        mask = torch.ones_like(ids)
        if batch > 1:
            mask[1::2, -length // 4 :] = 0  # every other row is shorter, so that the model needs a mask
        return {"input_ids": ids, "labels": ids.clone(), "attention_mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=gradient_accumulation_steps,
            max_steps=updates,
            optim=optimizer,
            bf16=chosen.bf16,
            fp16=chosen.fp16,
            use_cpu=device == "cpu",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        gc.collect()
        return _watch_cuda(trainer) if device == "cuda" else _watch_cpu(trainer, model)


def _make_model(config: Any, quantization: str | None, precision: Any, attention: str, device: str) -> Any:
    import copy
    import inspect

    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig

    name = "dtype" if "dtype" in inspect.signature(PretrainedConfig.__init__).parameters else "torch_dtype"
    trains_all = quantization is None
    dtype = torch.float32 if precision.fp16 and trains_all else precision.dtype
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention, **{name: dtype})
    if quantization is None:
        return model.to(device)
    if quantization == "int8":
        how = BitsAndBytesConfig(load_in_8bit=True)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=how,
            device_map={"": device},
            attn_implementation=attention,
            **{name: dtype},
        )


def _watch_cpu(trainer: Any, model: Any) -> int:
    from torch.profiler import ProfilerActivity, profile

    held = sum(_unique_storages(model).values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.train()
    # The allocator's own reports: so many bytes taken or given back, at this time.
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert peak > 0
    return held + peak


def _watch_cuda(trainer: Any) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


def _unique_storages(model: Any) -> dict[int, int]:
    return {tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(model)}


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.parameters()
    yield from model.buffers()
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (value for value in vars(state).values() if hasattr(value, "untyped_storage"))
            state = getattr(state, "state2", None)
