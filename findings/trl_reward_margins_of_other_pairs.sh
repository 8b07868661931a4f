#!/usr/bin/env bash
# trl 0.22.2, transformers 4.55.4, torch 2.13.0: a reward model's loss takes the margin of each pair from every pair.
#
# Valid input: two pairs with a column `margin`, as RewardTrainer documents it, one with margin 0 and one with 4.
# One expects: the mean of -log sigmoid(chosen - rejected - margin), with each pair's own margin.
# What happens: the rewards have the shape (2, 1), the margins (2,), and their difference (2, 2): the mean is of each
# pair with each margin, so a margin moves all pairs of its batch alike. With one pair a batch, and without margins, the
# loss is right. 0.9.6, 0.12.2 and 0.15.2 have the same line (read, not run); 1.16.0 takes the last axis off the rewards.
# Seen:
#   with its own margin: 21.60
#   of all four:         20.60
#   RewardTrainer:       20.60
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 accelerate==1.10.1 datasets==3.3.2
env/bin/pip install --quiet --disable-pip-version-check transformers==4.55.4 trl==0.22.2
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import RewardConfig, RewardTrainer

backend = Tokenizer(models.WordLevel({"<pad>": 0, "good": 1, "fine": 2, "bad": 3, "poor": 4}, unk_token="<pad>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
torch.manual_seed(0)
model = LlamaForSequenceClassification(LlamaConfig(**sizes, pad_token_id=0, num_labels=1))
torch.nn.init.normal_(model.score.weight, std=20)
pairs = [{"chosen": "good", "rejected": "bad", "margin": 0.0}, {"chosen": "fine", "rejected": "poor", "margin": 4.0}]
arguments = RewardConfig("out", per_device_train_batch_size=2, max_length=8, use_cpu=True, report_to=[])
trainer = RewardTrainer(model, arguments, processing_class=tokenizer, train_dataset=Dataset.from_list(pairs))
batch = next(iter(trainer.get_train_dataloader()))
with torch.no_grad():
    loss, rewards = trainer.compute_loss(model, batch, return_outputs=True)
ahead = (rewards["rewards_chosen"] - rewards["rewards_rejected"]).reshape(2)
own = -logsigmoid(ahead - batch["margin"]).mean()
every = -logsigmoid(ahead[:, None] - batch["margin"][None, :]).mean()
print(f"with its own margin: {own:.2f}")
print(f"of all four:         {every:.2f}")
print(f"RewardTrainer:       {loss:.2f}")
assert torch.isclose(loss, every) and not torch.isclose(loss, own, rtol=0.01), "changed"
PY
