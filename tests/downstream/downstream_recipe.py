"""Fine-tune a chat model on a file of conversations: `downstream-train MODEL_FOLDER ROWS.jsonl OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llama_padfix import build_trainer, diagnose, load


def main() -> None:
    """Train two steps, and print what a service would check before it puts the model to use."""
    folder, data, output = sys.argv[1:4]
    model, tokenizer = load(folder)
    rows = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").splitlines()]
    trainer = build_trainer(
        model,
        tokenizer,
        rows,
        output_dir=output,
        max_length=256,
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
    )
    diagnose(trainer).raise_for_errors()
    result = trainer.train()
    trainer.save_model(output)
    tokenizer.save_pretrained(output)
    report = diagnose(output)
    print(
        json.dumps(
            {
                "loss": result.training_loss,
                "steps": trainer.state.global_step,
                "pad_token": tokenizer.pad_token,
                "errors": [finding.code for finding in report.findings if finding.severity == "error"],
            }
        )
    )
