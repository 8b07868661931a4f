"""Save the tokenizers that every peer loads: Llama 3.1's, once with the chat template for which each has its own.

    python benchmarks/throughput/prepare.py FOLDER

FOLDER/llama3 has Llama 3's chat template (TRL's copy, for which TRL ships a training template), FOLDER/llama3_1 has
Llama 3.1's with its dates, FOLDER/tokenizer.model is Meta's file, for torchtune.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

from llama_padfix.demo.reference import build_tokenizer

folder = Path(sys.argv[1])
tokenizer = build_tokenizer("3.1-instruct")
model = Path(str(distribution("llama_models").locate_file("llama_models/llama3/tokenizer.model")))
for name in ("llama3_1", "llama3"):
    if name == "llama3":
        path = distribution("trl").locate_file("trl/chat_templates/llama3.jinja")
        tokenizer.chat_template = Path(str(path)).read_text(encoding="utf-8")
    tokenizer.save_pretrained(folder / name)
shutil.copy(model, folder / "tokenizer.model")
