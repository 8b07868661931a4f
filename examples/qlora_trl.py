"""4-bit QLoRA with TRL: a model in nf4, adapters on every projection, loss on the answers alone.

Run: python examples/qlora_trl.py meta-llama/Llama-3.1-8B-Instruct   (or a folder; a GPU, or a small model on a CPU)
"""

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

# Prints every choice with its reason: dtype, quantization, attention, device, adapters, pad and stop tokens.
model, tokenizer = load(options.model, quantization="nf4", lora=True, max_length=options.length)

# Your rows, in any of the usual shapes: messages, ShareGPT, Alpaca, prompt/completion.
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
    optim=choose_optimizer("paged_adamw_8bit").taken,
    logging_steps=1,
    report_to=[],
)
diagnose(trainer).raise_for_errors()  # looks at the batches that the loss will really see
trainer.train()

trainer.save_model(options.output)  # the adapter
tokenizer.save_pretrained(options.output)  # the tokenizer with its fixes
