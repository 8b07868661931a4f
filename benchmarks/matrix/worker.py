"""One side of the benchmark: reads a task a line, does it in a process of its own, and answers with a line.

    python worker.py ours | template | trl | unsloth

A task is JSON: family, shape, rows, data (a file), engine, way, keep (a folder for the rows that are made); with
"make" the data are written. Imports, tokenizer and, for ours, an encoder that has seen 64 other rows are there before
the clock starts, as the tokenizer is for each library. The work itself is done in a fork of this process, so that no
round finds what an earlier one has learned or cached.
"""
# ruff: noqa: E402  # unsloth is imported first, and only by its own side

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", UNSLOTH_DATASET_NUM_PROC="0")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "throughput")]

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print, some when they are imported, goes to the log

SIDE = sys.argv[1]
if SIDE == "unsloth":
    import unsloth  # noqa: F401  # before transformers and trl

import families
import measure
import shapes
from datasets import Dataset

CHUNK = 2000  # rows of a table
WARM = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello!"}]

TEXTS = ("text_plain", "text_rendered")

Task = dict[str, Any]
Made = tuple[Any, Any, Any]
"""Flat ids, flat labels or None, and the rows' lengths."""


@functools.cache
def load_tokenizer(family: str) -> Any:
    """Return a family's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(families.save_tokenizer(family))


def open_data(task: Task, folder: Path) -> Any:
    """Return the rows as a dataset of their own, so that caches lie in `folder`."""
    link = folder / "rows.arrow"
    link.symlink_to(task["data"])
    return Dataset.from_file(str(link))


def write_data(task: Task) -> None:
    """Write the rows of a task, whole or not at all."""
    rows = [*shapes.make_rows(task["shape"], task["rows"])]
    if task["shape"] == "text_rendered":
        tokenizer = load_tokenizer(task["family"])
        rows = [{"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)} for row in rows]
    mixed = {"on_mixed_types": "use_json"} if shapes.SHAPES[task["shape"]].as_json else {}
    with tempfile.TemporaryDirectory(dir=Path(task["data"]).parent) as folder:
        Dataset.from_list(rows, **mixed).save_to_disk(folder, num_shards=1)
        [file] = Path(folder).glob("*.arrow")
        file.replace(task["data"])


def convert(task: Task, dataset: Any) -> Any:
    """Return the rows as a library reads them that does not know the shape."""
    plain_of = shapes.SHAPES[task["shape"]].plain_of
    return dataset if plain_of is None else dataset.map(plain_of, remove_columns=dataset.column_names)


def encode_ours(task: Task, dataset: Any, work: measure.Work) -> Made:
    """Encode by `encode_table`, 2,000 rows at a time; `way` "rows" by `encode_rows`, "dataset" by `encode_dataset`."""
    import pyarrow

    from llama_padfix import ChatEncoder, encode_dataset

    engine = task["engine"]
    if engine == "default":  # what is there without an extra
        sys.modules.update(dict.fromkeys(("fastokens", "tiktoken")))
        engine = "auto"
    encoder = ChatEncoder(load_tokenizer(task["family"]), measure.MAX_LENGTH, engine=engine)
    encoder.encode_table(pyarrow.Table.from_pylist([{"messages": WARM}] * 64))
    if task["way"] == "rows":
        rows = dataset.to_list()
        with work:
            columns = encoder.encode_rows(rows)[0]
        return *measure.flatten_lists(columns["input_ids"])[:1], *measure.flatten_lists(columns["labels"])
    arrow = dataset.with_format("arrow")
    with work:
        if task["way"] == "dataset":
            encoded = [encode_dataset(encoder, dataset, progress=False).with_format("arrow")[:]]
        else:
            encoded = [encoder.encode_table(arrow[start : start + CHUNK]) for start in range(0, len(arrow), CHUNK)]
    return read_columns(pyarrow.concat_tables(encoded))


def encode_template(task: Task, dataset: Any, work: measure.Work) -> Made:
    """Render and encode all rows in one call of `apply_chat_template`, which makes no labels."""
    tokenizer = load_tokenizer(task["family"])
    if task["shape"] in TEXTS:
        with work:
            ids = tokenizer(dataset.with_format("arrow")[:]["text"].to_pylist(), add_special_tokens=False)["input_ids"]
    else:
        read = shapes.SHAPES[task["shape"]].plain_of or (lambda row: row)
        with work:
            rows = [read(row) for row in dataset.to_list()]
            tools = rows[0].get("tools")
            conversations = [row.get("messages") or [*row["prompt"], *row["completion"]] for row in rows]
            made = tokenizer.apply_chat_template(conversations, tools=tools, tokenize=True, return_dict=True)
            ids = made["input_ids"]
    flat, lengths = measure.flatten_lists(ids)
    return flat, None, lengths


def encode_trl(task: Task, dataset: Any, work: measure.Work) -> Made:
    """Prepare by `SFTTrainer._prepare_dataset`, with labels of answers alone where TRL has a template for that."""
    from trl import SFTConfig, SFTTrainer
    from trl.chat_template_utils import get_training_chat_template

    tokenizer = load_tokenizer(task["family"])
    try:
        template = get_training_chat_template(tokenizer)
        masks = task["shape"] not in TEXTS
    except ValueError:  # TRL has no training variant of this one
        template, masks = None, False
    config = SFTConfig(
        output_dir=task["folder"],
        assistant_only_loss=masks,
        max_length=measure.MAX_LENGTH,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    # The trainer without a model: its constructor sets just these three before it prepares a dataset.
    trainer = object.__new__(SFTTrainer)
    trainer.chat_template = template
    trainer.completion_only_loss = task["shape"] == "prompt_messages"
    trainer._tokenizer = tokenizer
    with work:
        prepared = trainer._prepare_dataset(convert(task, dataset), tokenizer, config, False, None, "train")
    ids, labels, lengths = read_columns(prepared.with_format("arrow")[:])
    return ids, labels if masks else None, lengths


def encode_unsloth(task: Task, dataset: Any, work: measure.Work) -> Made:
    """Encode as Unsloth's notebooks do: text by the template, `SFTTrainer`, `train_on_responses_only`."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer
    from unsloth.chat_templates import train_on_responses_only

    tokenizer = load_tokenizer(task["family"])
    tokenizer.pad_token = tokenizer.pad_token or "<|finetune_right_pad_id|>"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes))
    config = {"output_dir": task["folder"], "max_length": measure.MAX_LENGTH, "report_to": [], "use_cpu": True}
    args = SFTConfig(dataset_text_field="text", bf16=False, fp16=False, **config)
    question, answer = families.FAMILIES[task["family"]].turns

    def write_texts(examples: dict[str, Any]) -> dict[str, Any]:
        return {"text": [tokenizer.apply_chat_template(messages, tokenize=False) for messages in examples["messages"]]}

    with work:
        rows = convert(task, dataset)
        if task["shape"] not in TEXTS:
            rows = rows.map(write_texts, batched=True)
        trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=args)
        trainer = train_on_responses_only(trainer, instruction_part=question, response_part=answer, num_proc=1)
    return read_columns(trainer.train_dataset.with_format("arrow")[:])


def read_columns(table: Any) -> Made:
    """Return an Arrow table's ids and labels, flat."""
    ids, lengths = measure.flatten(table["input_ids"])
    return ids, measure.flatten(table["labels"])[0], lengths


ENCODE: dict[str, Callable[[Task, Any, measure.Work], Made]] = {
    "ours": encode_ours,
    "template": encode_template,
    "trl": encode_trl,
    "unsloth": encode_unsloth,
}


def do(task: Task) -> dict[str, Any]:
    """Do a task, and return its report."""
    if task.get("make"):
        write_data(task)
        return {}
    work = measure.Work()
    with tempfile.TemporaryDirectory() as folder:
        task["folder"] = folder
        ids, labels, lengths = ENCODE[SIDE](task, open_data(task, Path(folder)), work)
    if task.get("keep"):
        measure.keep_rows(Path(task["keep"]), ids, labels, lengths)
    told = {"cpu": work.cpu, "wall": work.wall, "peak": work.peak, "rows": len(lengths), "tokens": len(ids)}
    return told | {"labels": labels is not None}


def do_in_fork(task: Task) -> dict[str, Any]:
    """Do a task in a fork of this process, which ends with it."""
    load_tokenizer(task["family"])
    with tempfile.NamedTemporaryFile() as report:
        child = os.fork()
        if child == 0:
            try:
                told = do(task)
            except BaseException as error:
                traceback.print_exc()
                told = {"error": f"{type(error).__name__}: {error}"[:300]}
            Path(report.name).write_text(json.dumps(told), encoding="utf-8")
            os._exit(0)
        os.waitpid(child, 0)
        return dict(json.loads(Path(report.name).read_text(encoding="utf-8") or '{"error": "the process died"}'))


def main() -> None:
    """Answer each line of the input with one of the output."""
    used = {"ours": ["llama_padfix"], "trl": ["trl"], "template": ["transformers"]}.get(SIDE, [])
    for name in used:
        importlib.import_module(name)
    if SIDE == "trl":
        from trl import SFTConfig, SFTTrainer  # noqa: F401  # lazily imported, and no part of the work
    for line in sys.stdin:
        try:
            told = do_in_fork(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"[:300]}
        ANSWERS.write(json.dumps(told) + "\n")
        ANSWERS.flush()


if __name__ == "__main__":
    main()
