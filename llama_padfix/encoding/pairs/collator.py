"""Encoded answers to one padded batch, in the form that the loss of each task reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.compat import BatchLayout
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.kinds import require_max_length
from llama_padfix.core.records import short_repr
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.pairs.encoder import COLUMNS, PairTask
from llama_padfix.encoding.settings import require_choice

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import Row

_REFERENCES = tuple(
    f"{name}_{part}logps" for name in ("ref", "reference") for part in ("chosen_", "rejected_", "", "KL_")
)
"""What TRL computes of a reference model before the run, and reads again from the batch."""


@dataclass(frozen=True)
class PairCollator:
    """Make batches of rows that a `PairEncoder` encoded, for the `data_collator` of TRL's trainers.

    Args:
        pad_token_id: What fills `input_ids`, on the right.
        task: That of the encoder.
        max_length: Most tokens of a row in which KTO puts another row's answer behind a prompt; None for any.
        pad_to_multiple_of: As for `PadCollator`.
        layout: How a batch holds answers, which differs between versions of TRL; `prepare` finds it. "joined" in one
            block, "named" in columns for each answer, "apart" with the prompts for themselves. ORPO is always "named".

    Raises:
        PadfixError: A setting cannot work.
    """

    pad_token_id: int
    task: PairTask = "dpo"
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    layout: BatchLayout = "joined"

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Raise `PadfixError` for settings that would only fail at the first batch."""
        require_choice("task", self.task, PairTask)
        require_choice("layout", self.layout, BatchLayout)
        require_max_length(self.max_length)
        PadCollator(self.pad_token_id, self.pad_to_multiple_of)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:  # tensors; of KTO "named" also a list of verdicts
        """Return one batch. `rows` is never changed.

        Args:
            rows: Mappings with the columns of `PairEncoder` for this task.

        Returns:
            For "dpo" `input_ids`, `attention_mask` and `completion_mask` (1 where a token is trained), int64 of shape
            (2 * len(rows), width): the chosen answers, then the rejected ones. For "reward" the first two, and
            `margin` of shape (len(rows),). For "kto" the three of "dpo" with a row each, again with `KL_` in front for
            each prompt with the answer of the row before it, and `label`, bool of shape (len(rows),). For "orpo", and
            "named", columns for each answer: `chosen_input_ids`, `chosen_attention_mask`, `chosen_labels`, and so for
            `rejected`, or for `completion` and `KL_completion`. Log-probabilities of a reference that are in the rows
            go along.

        Raises:
            PadfixError: A row lacks a column, the layout "apart" cannot hold what is trained, or as for `PadCollator`.
        """
        _require_columns(rows, COLUMNS[self.task])
        batch: dict[str, Any] = getattr(self, f"_collate_{self.task}")(rows)
        given = [name for name in _REFERENCES if name in rows[0]]
        return {**batch, **{name: _to_tensor(rows, name) for name in given}}

    def _collate_dpo(self, rows: Sequence[Row]) -> dict[str, Any]:
        if self.layout == "named":
            return self._collate_orpo(rows)
        if self.layout == "apart":
            return self._collate_apart(rows)
        return self._mask([*_take(rows, "_chosen"), *_take(rows, "_rejected")])

    def _collate_orpo(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {**self._name("chosen", _take(rows, "_chosen")), **self._name("rejected", _take(rows, "_rejected"))}

    def _collate_reward(self, rows: Sequence[Row]) -> dict[str, Any]:
        ids = {name: [{"input_ids": row[f"{name}_ids"]} for row in rows] for name in ("chosen", "rejected")}
        batch: dict[str, Any] = {"margin": _to_tensor(rows, "margin")}
        if self.layout == "joined":
            padded = self._pad([*ids["chosen"], *ids["rejected"]])
            return {**batch, **{name: padded[name] for name in ("input_ids", "attention_mask")}}
        for name, own in ids.items():
            padded = self._pad(own)
            batch |= {f"{column}_{name}": padded[column] for column in ("input_ids", "attention_mask")}
        return {**batch, "margin": batch["margin"][:, None], "return_loss": True}

    def _collate_kto(self, rows: Sequence[Row]) -> dict[str, Any]:
        import torch

        own, verdicts = _take(rows, ""), [bool(row["label"]) for row in rows]
        others = [_exchange(row, own[place - 1], self.max_length) for place, row in enumerate(own)]
        if self.layout == "named":  # which compares each verdict by `is True`
            return {**self._name("completion", own), **self._name("KL_completion", others), "label": verdicts}
        mixed = {f"KL_{name}": held for name, held in self._mask(others).items()}
        return {**self._mask(own), **mixed, "label": torch.tensor(verdicts)}

    def _collate_apart(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for name in ("chosen", "rejected"):
            own = _take(rows, f"_{name}")
            starts = [_find_answer(row["labels"]) for row in own]
            halves = [(row["input_ids"][:at], row["input_ids"][at:]) for row, at in zip(own, starts, strict=True)]
            prompts, answers = ([{"input_ids": half[side]} for half in halves] for side in (0, 1))
            if any(IGNORE_INDEX in [*row["labels"]][at:] for row, at in zip(own, starts, strict=True)):
                raise PadfixError(
                    "An answer has several turns, and DPO of TRL 0.12 to 0.29 trains every token behind the prompt, "
                    'the user\'s too. Run: pip install -U "trl>=1", or encode the rows with that version: '
                    "prepare(tokenizer, model, task='dpo', on_error='drop').encode(rows)"
                )
            left = PadCollator(self.pad_token_id, padding_side="left")(prompts)
            for part, padded in (("prompt", left), (name, self._pad(answers))):
                batch |= {f"{part}_{column}": padded[column] for column in ("input_ids", "attention_mask")}
        return batch

    def _mask(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return a padded batch with a mask of trained tokens in the place of labels."""
        batch = self._pad(rows)
        labels = batch.pop("labels")
        return {**batch, "completion_mask": (labels != IGNORE_INDEX).long()}

    def _name(self, name: str, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return a padded batch whose columns begin with the name of the answer."""
        return {f"{name}_{column}": held for column, held in self._pad(rows).items()}

    def _pad(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        return PadCollator(self.pad_token_id, self.pad_to_multiple_of)(rows)


def _require_columns(rows: Sequence[Row], columns: Sequence[str]) -> None:
    if isinstance(rows, Mapping) or not isinstance(rows, Sequence):
        raise PadfixError(
            f"A batch is a sequence of rows, and this is a {type(rows).__name__}. Pass a list: collator([row])."
        )
    for place, row in enumerate(rows):
        missing = [name for name in columns if not isinstance(row, Mapping) or row.get(name) is None]
        if missing:
            raise PadfixError(
                f"Row {place} has no {missing[0]}. Encode the rows with the same task, and let the trainer keep their "
                "columns (remove_unused_columns=False): DPOConfig(**prepared.training_args)"
            )


def _to_tensor(rows: Sequence[Mapping[str, Any]], name: str) -> torch.Tensor:  # rows with columns of any kind
    """Return a column of numbers as a float tensor of shape (len(rows),)."""
    import torch

    return torch.tensor([float(row[name]) for row in rows])


def _take(rows: Sequence[Row], suffix: str) -> list[dict[str, Any]]:  # ids of any kind
    return [{name: row[name + suffix] for name in ("input_ids", "labels")} for row in rows]


def _exchange(row: Mapping[str, Any], other: Mapping[str, Any], max_length: int | None) -> dict[str, list[int]]:
    """Return the prompt of a row with the answer of another one."""
    start, begin = _find_answer(row["labels"]), _find_answer(other["labels"])
    joined = {name: [*row[name][:start], *other[name][begin:]][:max_length] for name in ("input_ids", "labels")}
    return {name: list(map(int, held)) for name, held in joined.items()}


def _find_answer(labels: Sequence[int]) -> int:
    start = next((at for at, label in enumerate(labels) if label != IGNORE_INDEX), None)
    if start is None:
        raise PadfixError("A row has no trained token, so there is no answer to judge. PairEncoder makes no such row")
    return start
