"""The arguments of a run that is over at once, for every test that builds a trainer to look at."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "max_steps": 1,
    "per_device_train_batch_size": 2,
}
