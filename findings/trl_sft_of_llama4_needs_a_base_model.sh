#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: SFTTrainer cannot train Llama 4 as it is published, with its vision part.
#
# Valid input: a Llama4ForConditionalGeneration (the class of Llama 4 Scout and Maverick) and rows of text.
# One expects: a training step, as transformers.Trainer makes it.
# What happens: the loss is computed from `model.base_model(...).last_hidden_state`. The class has no module of the name
# in its base_model_prefix, so base_model is the model itself, whose output holds logits and no hidden states.
# Seen:
#   transformers.Trainer: a loss
#   trl.SFTTrainer: AttributeError: 'Llama4CausalLMOutputWithPast' object has no attribute 'last_hidden_state'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "b", "c"])}
backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
)
text = {"vocab_size": 6, "hidden_size": 32, "intermediate_size": 32, "intermediate_size_mlp": 32, "head_dim": 16}
text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
vision = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
vision |= {"image_size": 28, "patch_size": 7, **dict.fromkeys(("vision_output_dim", "projector_input_dim"), 16)}
config = transformers.Llama4Config(
    text_config=text | {"pad_token_id": 0}, vision_config=vision | {"projector_output_dim": 16}
)
model = transformers.Llama4ForConditionalGeneration(config)
rows = Dataset.from_list([{"input_ids": [3, 4, 5], "labels": [3, 4, 5]}] * 4)
settings = {"output_dir": "out", "max_steps": 1, "use_cpu": True, "report_to": [], "disable_tqdm": True}
plain = transformers.Trainer(model, transformers.TrainingArguments(**settings), train_dataset=rows)
assert plain.train().training_loss > 0
print("transformers.Trainer: a loss")
arguments = trl.SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True})
trainer = trl.SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
try:
    trainer.train()
    seen = "a loss"
except AttributeError as error:
    seen = f"AttributeError: {error}"
print("trl.SFTTrainer:", seen)
assert seen.startswith("AttributeError"), "changed"
PY
