"""Print the estimated peak of a training step beside the measured one: `max_memory_allocated`, or a CPU's allocator.

Run from the repository root: python benchmarks/memory.py [cuda | cpu | 8b]
Without an argument the GPU is taken where there is one. `8b` prints the estimate of Llama 3.1 8B alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from llama_padfix.training.memory.estimate import estimate_memory
from tests.support.measured import make_config, measure_run
from tests.training.test_memory import CASES, make_llama_8b

# A Llama 3.2 1B in all but the weights, which are random, and half of the layers.
ONE_BILLION: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
}
QLORA: dict[str, Any] = {"quantization": "nf4", "lora": True, "precision": "bf16", "gradient_checkpointing": True}
ON_CUDA: dict[str, dict[str, Any]] = {
    "full bf16": {"batch": 1, "length": 1024, "precision": "bf16"},
    "full bf16, checkpointed": {"batch": 4, "length": 1024, "precision": "bf16", "gradient_checkpointing": True},
    "full fp32": {"batch": 1, "length": 512},
    "full fp16 autocast": {"batch": 2, "length": 512, "precision": "fp16"},
    "full bf16, foreach AdamW": {"batch": 1, "length": 128, "precision": "bf16", "optimizer": "adamw_torch"},
    "full bf16, 8-bit AdamW": {"batch": 1, "length": 128, "precision": "bf16", "optimizer": "adamw_8bit"},
    "LoRA bf16": {"batch": 2, "length": 1024, "precision": "bf16", "lora": True},
    "LoRA bf16, eager": {"batch": 2, "length": 1024, "precision": "bf16", "lora": True, "attention": "eager"},
    "QLoRA, one row": {"batch": 1, "length": 2048, **QLORA},
    "QLoRA, padded rows": {"batch": 4, "length": 1024, **QLORA},
    "QLoRA, accumulated": {"batch": 2, "length": 1024, "gradient_accumulation_steps": 4, **QLORA},
    "QLoRA, not checkpointed": {"batch": 1, "length": 1024, **QLORA, "gradient_checkpointing": False},
    "int8 LoRA": {"batch": 2, "length": 512, **QLORA, "quantization": "int8"},
}


def _compare(name: str, shape: dict[str, Any], settings: dict[str, Any], device: str) -> None:
    filled = {
        "precision": "fp32",
        "gradient_checkpointing": False,
        "optimizer": "adamw_torch_fused" if device == "cuda" else "adamw_torch",
        **settings,
    }
    start = time.process_time()
    found = estimate_memory(make_config(**shape), device=device, **filled)
    took = time.process_time() - start
    real = measure_run(make_config(**shape), device=device, **filled)
    if device == "cuda":
        torch.cuda.empty_cache()
    error = 100 * (found.peak_bytes / real - 1)
    print(
        f"| {name} | {found.peak_bytes / 2**20:.1f} | {real / 2**20:.1f} | {error:+.2f} % | {took:.1f} s |", flush=True
    )


def _print_8b() -> None:
    start = time.process_time()
    found = estimate_memory(
        make_llama_8b(), batch=1, length=2048, quantization="nf4", lora=True, precision="bf16", device="cuda"
    )
    print(found)
    print(f"{time.process_time() - start:.0f} s of processor time")
    for gpu in (16, 24, 80):
        print(found.advise(gpu))


if __name__ == "__main__":
    wish = sys.argv[1] if len(sys.argv) > 1 else "cuda" if torch.cuda.is_available() else "cpu"
    if wish == "8b":
        _print_8b()
    else:
        on = f"{torch.cuda.get_device_name()}" if wish == "cuda" else "CPU"
        print(f"torch {torch.__version__}, {on}")
        print("| run | estimated MiB | measured MiB | error | to estimate |")
        print("|---|---|---|---|---|")
        if wish == "cuda":
            for name, settings in ON_CUDA.items():
                _compare(name, ONE_BILLION, settings, "cuda")
        else:
            for name, (shape, settings) in CASES.items():
                _compare(name, shape, settings, "cpu")
