"""What `test_two_processes` starts, alone or under torchrun: load, adapters, prepare and trainer, with everything on.

Usage: two_processes.py FOLDER OUT ROWS_PER_PROCESS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from llama_padfix import build_trainer, load
from llama_padfix.demo.run import load_rows

folder, out, rows_per_process = sys.argv[1:]
seen: dict[str, Any] = {}


class Look(TrainerCallback):  # type: ignore[misc]
    """Notes what trains, in which process."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen.setdefault("wrapper", type(trainer.model_wrapped).__name__)


model, tokenizer = load(folder, quantization="nf4", lora=True, max_length=64)
trainer = build_trainer(
    model,
    tokenizer,
    load_rows(["chats.jsonl"])[:16],
    max_length=1024,
    output_dir=out,
    max_steps=3,
    per_device_train_batch_size=int(rows_per_process),
    learning_rate=1e-2,
    lr_scheduler_type="constant",
    logging_steps=1,
    optim="adamw_torch",
    gradient_checkpointing=True,
    report_to=[],
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
    seed=0,
    callbacks=[Look()],
)
trainer.train()
seen["world_size"] = trainer.args.world_size
seen["backend"] = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
seen["rank"] = trainer.args.process_index
seen["losses"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
seen["linear"] = sorted({type(module).__name__ for name, module in model.named_modules() if name.endswith("_proj")})
seen["sum"] = sum(p.double().sum().item() for p in model.parameters() if p.requires_grad)
Path(out).mkdir(exist_ok=True)
(Path(out) / f"seen-{seen['rank']}.json").write_text(json.dumps(seen), encoding="utf-8")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()  # gloo's threads end here, not while the interpreter goes down
