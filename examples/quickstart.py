"""The usual fine-tuning script and the fixed one, step by step, on the real Llama 3.1 vocabulary.

Run: python examples/quickstart.py   (after `make demo`, or with llama-padfix[demo] installed; no network)
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import DataCollatorForLanguageModeling

from llama_padfix import find_markers, prepare, to_messages
from llama_padfix.demo import reference
from llama_padfix.demo.run import count_stops, load_rows, measure_batches, train

STEPS = 110
MAX_LENGTH = 128

# Conversations in four shapes: messages, ShareGPT, Alpaca, prompt/completion.
rows = load_rows(["chats.jsonl", "sharegpt.jsonl", "alpaca.jsonl", "prompt_completion.jsonl"])
held_back = load_rows(["held_back.jsonl"])

# --- The usual script -------------------------------------------------------------------------------------------
tokenizer = reference.build_tokenizer("3.1-instruct")  # in your script: AutoTokenizer.from_pretrained(...)
model = reference.make_tiny_llama("3.1-instruct")  # in your script: AutoModelForCausalLM.from_pretrained(...)

tokenizer.pad_token = tokenizer.eos_token  # <|eot_id|>: what the model must learn to say is now padding
texts = [tokenizer.apply_chat_template(to_messages(row), tokenize=False) for row in rows]
dataset = [dict(tokenizer(text, truncation=True, max_length=MAX_LENGTH)) for text in texts]  # BOS, once more
collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)  # labels: everything but padding

trainer, losses = train(model, tokenizer, dataset, collator, STEPS, {})
seen = measure_batches(trainer.get_train_dataloader(), find_markers(tokenizer), tokenizer.bos_token_id)
print(f"usual:    {seen.doubled_bos} of {seen.rows} rows with a doubled BOS")
print(f"usual:    {seen.trained_ends} of {seen.turns} turns whose end token is trained")
print(f"usual:    {seen.trained_outside} of {seen.trained_tokens} trained tokens outside assistant turns")
print(f"usual:    loss {losses[-1]:.3f}; stops by itself: {count_stops(model, tokenizer, held_back)} of 24 prompts")

# --- The same script, prepared ----------------------------------------------------------------------------------
tokenizer = reference.build_tokenizer("3.1-instruct")
model = reference.make_tiny_llama("3.1-instruct")

prepared = prepare(tokenizer, model, max_length=MAX_LENGTH)  # patches in place
print(prepared.plan)  # what it changed, and why
dataset = prepared.encode(rows)  # input_ids and labels, -100 outside assistant turns
print(prepared.counts)  # what was dropped, cut, repaired

# With TRL: SFTTrainer(model, args=SFTConfig(output_dir="out", **prepared.training_args), train_dataset=dataset,
#                      data_collator=prepared.collator, processing_class=tokenizer)
trainer, losses = train(model, tokenizer, dataset, prepared.collator, STEPS, prepared.trainer_args)
seen = measure_batches(trainer.get_train_dataloader(), find_markers(tokenizer), tokenizer.bos_token_id)
print(f"prepared: {seen.doubled_bos} of {seen.rows} rows with a doubled BOS")
print(f"prepared: {seen.trained_ends} of {seen.turns} turns whose end token is trained")
print(f"prepared: {seen.trained_outside} of {seen.trained_tokens} trained tokens outside assistant turns")
print(f"prepared: loss {losses[-1]:.3f}; stops by itself: {count_stops(model, tokenizer, held_back)} of 24 prompts")
