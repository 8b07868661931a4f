"""4-bit QLoRA with Unsloth: its model and its kernels, this library's tokens, masks and checks.

Run: python examples/qlora_unsloth.py unsloth/Llama-3.1-8B-Instruct   (or a folder; a GPU, or a small model on a CPU)
"""

# Before anything that imports transformers, which it patches.
import unsloth  # type: ignore[import-not-found, unused-ignore]  # noqa: F401, I001

import argparse

from llama_padfix import build_trainer, choose_optimizer, diagnose, load
from llama_padfix.demo.run import load_rows

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a folder, or a name on the hub")
parser.add_argument("--output", default="out", help="where checkpoints and the adapter go")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--length", type=int, default=1024, help="longest row, in tokens")
parser.add_argument("--batch", type=int, default=2, help="rows a step and device")
parser.add_argument("--rate", type=float, default=2e-4, help="learning rate")
options = parser.parse_args()

# FastLanguageModel.from_pretrained and get_peft_model, and a tokenizer whose ids are verified.
model, tokenizer = load(options.model, backend="unsloth", quantization="nf4", lora=True, max_length=options.length)

rows = load_rows(["chats.jsonl", "sharegpt.jsonl", "alpaca.jsonl", "prompt_completion.jsonl"])

trainer = build_trainer(
    model,
    tokenizer,
    rows,
    max_length=options.length,
    output_dir=options.output,
    max_steps=options.steps,
    per_device_train_batch_size=options.batch,
    gradient_accumulation_steps=4,
    learning_rate=options.rate,
    warmup_steps=5,
    optim=choose_optimizer("adamw_8bit").taken,
    logging_steps=1,
    report_to=[],
)
diagnose(trainer).raise_for_errors()
trainer.train()

trainer.save_model(options.output)
tokenizer.save_pretrained(options.output)
