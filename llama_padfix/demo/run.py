"""The usual script and the prepared one, side by side: the same tiny Llama, the same conversations, measured.

The vocabulary is that of Llama 3.1, 128,256 tokens; the model is random and small enough for a CPU. Everything is
counted in the batches that the two trainers draw, and in the text that the two models generate, in transformers and in
llama.cpp.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix import (
    TurnMarkers,
    export_for_serving,
    find_markers,
    mask_labels,
    padding_side,
    prepare,
    to_messages,
)
from llama_padfix.core.compat import name_tokenizer_argument
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.demo import reference
from llama_padfix.demo.in_llama_cpp import count_stops_in_llama_cpp

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

    from llama_padfix.core.types import Message, Row, Rows, TokenizerLike

    Batch = Mapping[str, torch.Tensor]
    Collator = Callable[[list[Row]], Batch]

STEPS = 110
BATCH_SIZE = 4
MAX_LENGTH = 128
NEW_TOKENS = 64
_LAST_STEPS = 10  # the final loss is the mean over these
_SERVED = "the same, exported as GGUF, in llama.cpp"
_TRAIN_FILES = ("chats.jsonl", "sharegpt.jsonl", "alpaca.jsonl", "prompt_completion.jsonl")


@dataclass(frozen=True)
class Measures:
    """The counts in the batches of one run, and in the texts that its model generated afterwards."""

    rows: int
    """Rows in the batches."""
    doubled_bos: int
    """Rows that start with two BOS."""
    turns: int
    """Assistant turns that end with a stop token."""
    trained_ends: int
    """Stop tokens of these turns that are trained."""
    trained_tokens: int
    """All trained tokens."""
    trained_outside: int
    """Trained tokens outside of assistant turns, without padding."""
    trained_padding: int
    """Trained padding tokens."""
    final_loss: float = 0.0
    """The mean loss of the last steps."""
    prompts: int = 0
    """Prompts that were held back."""
    stopped: int = 0
    """Prompts whose answer ends by itself."""
    stopped_in_llama_cpp: int | str = ""
    """The same in llama.cpp, from a GGUF file; where it is not installed, the lines that do it."""
    seconds: float = 0.0
    """The duration of the run, without llama.cpp."""


def run_demo(steps: int = STEPS, *, announce: Callable[[str], None] = lambda line: None) -> tuple[Measures, Measures]:
    """Run both scripts; this takes about 70 seconds on two cores.

    Args:
        steps: The training steps of each run.
        announce: Called with each line of progress.

    Returns:
        The counts of the usual script and of the prepared one.
    """
    rows, held_back = load_rows(_TRAIN_FILES), load_rows(("held_back.jsonl",))
    announce(f"{len(rows)} conversations to train on, {len(held_back)} prompts held back, {steps} steps each")
    announce("1/2 the usual script: pad = eos, chats rendered and tokenized again, the plain LM collator")
    usual = run_usual(rows, held_back, steps)
    announce("2/2 the same script with prepare()")
    prepared = run_prepared(rows, held_back, steps)
    return usual, prepared


def run_usual(rows: Sequence[Row], held_back: Sequence[Row], steps: int) -> Measures:
    """Train as most scripts do, and measure."""
    from transformers import DataCollatorForLanguageModeling

    tokenizer, model = reference.build_tokenizer(), reference.make_tiny_llama()
    tokenizer.pad_token = tokenizer.eos_token
    texts = [tokenizer.apply_chat_template(to_messages(row), tokenize=False) for row in rows]
    dataset = [dict(tokenizer(text, truncation=True, max_length=MAX_LENGTH)) for text in texts]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return _train_and_measure(model, tokenizer, dataset, collator, {}, held_back, steps)


def run_prepared(rows: Sequence[Row], held_back: Sequence[Row], steps: int) -> Measures:
    """Train the same through `prepare`, and measure."""
    tokenizer, model = reference.build_tokenizer(), reference.make_tiny_llama()
    prepared = prepare(tokenizer, model, max_length=MAX_LENGTH)
    dataset = prepared.encode(rows)

    def export(folder: Path, out: Path) -> None:
        export_for_serving(folder, out, rows, engines=["llama.cpp"], encoder=prepared.encoder)

    return _train_and_measure(
        model, tokenizer, dataset, prepared.collator, prepared.trainer_args, held_back, steps, export
    )


def _train_and_measure(
    model: PreTrainedModel,
    tokenizer: TokenizerLike,
    dataset: Rows,
    collator: Collator,
    arguments: Mapping[str, object],
    held_back: Sequence[Row],
    steps: int,
    export: Callable[[Path, Path], None] | None = None,
) -> Measures:
    started = time.perf_counter()
    trainer, losses = train(model, tokenizer, dataset, collator, steps, arguments)
    counted = measure_batches(trainer.get_train_dataloader(), find_markers(tokenizer), tokenizer.bos_token_id)
    last = losses[-_LAST_STEPS:]
    stopped = count_stops(model, tokenizer, held_back)
    seconds = time.perf_counter() - started
    prompts: list[list[Message]] = [[*to_messages(row)[:-1]] for row in held_back]
    return replace(
        counted,
        final_loss=sum(last) / len(last),
        prompts=len(held_back),
        stopped=stopped,
        stopped_in_llama_cpp=count_stops_in_llama_cpp(model, tokenizer, prompts, NEW_TOKENS, export),
        seconds=seconds,
    )


def load_rows(names: Iterable[str]) -> list[Row]:
    """Return the rows of the example files, in the shape of each file."""
    package = Path(__file__).parents[1]
    for folder in (package / "data", package.parent / "examples" / "data"):
        if folder.is_dir():
            files = [(folder / name).read_text(encoding="utf-8") for name in names]
            return [json.loads(line) for text in files for line in text.splitlines() if line.strip()]
    raise PadfixError("The demo's conversations are not installed. Run: pip install --force-reinstall llama-padfix")


def train(
    model: PreTrainedModel,
    tokenizer: TokenizerLike,
    dataset: Rows,
    collator: Collator,
    steps: int,
    arguments: Mapping[str, object],
) -> tuple[Trainer, list[float]]:
    """Train with transformers' `Trainer`; return it and the loss of every step."""
    from tqdm.auto import tqdm
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    losses: list[float] = []
    bar = tqdm(total=steps, desc="Training", unit="step", mininterval=1.0)

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        """Records the losses and updates the bar."""

        def on_log(self, *_: object, logs: Mapping[str, float] | None = None, **__: object) -> None:
            """Record the loss of the step."""
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))
                bar.set_postfix(loss=f"{losses[-1]:.2f}", refresh=False)
                bar.update()

    with tempfile.TemporaryDirectory() as folder, bar:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH_SIZE,
                learning_rate=1e-2,
                lr_scheduler_type="constant",
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                use_cpu=True,
                seed=0,
                **arguments,
            ),
            train_dataset=dataset,
            data_collator=collator,
            callbacks=[Watch()],
            **{name_tokenizer_argument(Trainer): tokenizer},
        )
        trainer.remove_callback(PrinterCallback)  # the bar shows the loss
        trainer.train()
    return trainer, losses


def measure_batches(batches: Iterable[Batch], markers: TurnMarkers, bos_token_id: int | None) -> Measures:
    """Count what is trained in padded batches.

    `mask_labels` finds the assistant turns in the ids, independently of the labels.
    """
    rows = doubled = turns = ends = trained = outside = padding = 0
    for batch in batches:
        truth = mask_labels(batch["input_ids"], markers, attention_mask=batch["attention_mask"])
        columns = (batch["input_ids"], batch["labels"], batch["attention_mask"], truth)
        for ids, labels, mask, true in zip(*(column.tolist() for column in columns), strict=True):
            rows += 1
            doubled += ids[:2] == [bos_token_id] * 2
            for token_id, label, real, expected in zip(ids, labels, mask, true, strict=True):
                ends_turn = expected == token_id and token_id in markers.stop_ids
                turns += ends_turn
                ends += ends_turn and label == token_id
                trained += label != IGNORE_INDEX
                outside += label != IGNORE_INDEX and expected == IGNORE_INDEX and bool(real)
                padding += label != IGNORE_INDEX and not real
    return Measures(rows, doubled, turns, ends, trained, outside, padding)


def count_stops(
    model: PreTrainedModel, tokenizer: TokenizerLike, held_back: Sequence[Row], new_tokens: int = NEW_TOKENS
) -> int:
    """Return the number of prompts for which greedy generation stops by itself within `new_tokens` tokens."""
    stop_ids = model.generation_config.eos_token_id
    stop_ids = {stop_ids} if isinstance(stop_ids, int) else set(stop_ids)
    prompts = [to_messages(row)[:-1] for row in held_back]
    model.eval()
    with padding_side(tokenizer, "left"):
        batch = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
    generated = model.generate(
        **batch, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    answers = generated[:, batch["input_ids"].shape[1] :].tolist()
    return sum(bool(stop_ids.intersection(answer)) for answer in answers)


def format_table(usual: Measures, prepared: Measures) -> list[tuple[str, str, str]]:
    """Return the rows (what, usual, prepared) of the closing table."""
    both = (usual, prepared)
    lines = [
        ("rows that start with a doubled BOS", *(f"{run.doubled_bos} of {run.rows}" for run in both)),
        ("turns whose end token is trained", *(f"{run.trained_ends} of {run.turns}" for run in both)),
        (
            "trained tokens outside assistant turns",
            *(f"{run.trained_outside} of {run.trained_tokens}" for run in both),
        ),
        ("padding tokens trained", *(str(run.trained_padding) for run in both)),
        (f"final loss (mean of the last {_LAST_STEPS} steps)", *(f"{run.final_loss:.3f}" for run in both)),
        (
            f"held-back prompts that stop within {NEW_TOKENS} tokens",
            *(f"{run.stopped} of {run.prompts}" for run in both),
        ),
        (_SERVED, *(f"{run.stopped_in_llama_cpp} of {run.prompts}" for run in both)),
        ("seconds", *(f"{run.seconds:.0f}" for run in both)),
    ]
    if any(isinstance(run.stopped_in_llama_cpp, str) for run in both):
        lines = [line for line in lines if line[0] != _SERVED]
    return [(what, first, second) for what, first, second in lines]
