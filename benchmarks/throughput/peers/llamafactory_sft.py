"""LLaMA-Factory: `get_dataset` for the stage sft with its template llama3, as its `run_sft` calls it."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure

TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def describe_data(options: Any) -> dict[str, Any]:
    """Return what LLaMA-Factory's dataset_info.json says of the conversations."""
    return {
        "conversations": {
            "file_name": str(options.data.resolve()),
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {**TAGS, "system_tag": "system"},
        }
    }


def main() -> None:
    """Measure `get_dataset`, which reads the file, aligns the rows and encodes them."""
    # LLaMA-Factory imports torchaudio, which it uses for sound alone and whose wheel asks for CUDA's libraries.
    # transformers looked for it when it was imported, and so knows that there is none.
    stand_in = types.ModuleType("torchaudio")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stand_in

    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from llamafactory.model.loader import load_tokenizer

    options = measure.read_options()
    (options.work / "dataset_info.json").write_text(json.dumps(describe_data(options)), encoding="utf-8")
    model = ModelArguments(model_name_or_path=str(options.tokenizer), cache_dir=str(options.work / "cache"))
    data = DataArguments(
        template="llama3", dataset="conversations", dataset_dir=str(options.work), cutoff_len=measure.MAX_LENGTH
    )
    training = transformers.Seq2SeqTrainingArguments(output_dir=str(options.work / "out"), use_cpu=True, report_to=[])
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    with measure.Work() as work:
        dataset = get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"]

    table = dataset.with_format("arrow")[:]
    ids, lengths = measure.flatten(table["input_ids"])
    labels, _ = measure.flatten(table["labels"])
    measure.report(options, work, ids, labels, lengths)


if __name__ == "__main__":
    main()
