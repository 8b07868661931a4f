"""Encoded answers to one padded batch, in the form that the loss of each task reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.pairs.encoder import COLUMNS, PairTask
from llama_padfix.encoding.settings import require_choice

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import Row

_REFERENCES = ("ref_chosen_logps", "ref_rejected_logps", "ref_logps", "ref_KL_logps")
"""What TRL computes of a reference model before the run, and reads again from the batch."""


@dataclass(frozen=True)
class PairCollator:
    """Make batches of rows that a `PairEncoder` encoded, for the `data_collator` of TRL's trainers.

    Args:
        pad_token_id: What fills `input_ids`, on the right.
        task: That of the encoder.
        max_length: Most tokens of a row in which KTO puts another row's answer behind a prompt; None for any.
        pad_to_multiple_of: As for `PadCollator`.

    Raises:
        PadfixError: A setting cannot work.
    """

    pad_token_id: int
    task: PairTask = "dpo"
    max_length: int | None = None
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        """Raise `PadfixError` for settings that would only fail at the first batch."""
        require_choice("task", self.task, PairTask)
        PadCollator(self.pad_token_id, self.pad_to_multiple_of)

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return one batch. `rows` is never changed.

        Args:
            rows: Mappings with the columns of `PairEncoder` for this task.

        Returns:
            For "dpo" `input_ids`, `attention_mask` and `completion_mask` (1 where a token is trained), int64 of shape
            (2 * len(rows), width): the chosen answers, then the rejected ones. For "reward" the first two, and
            `margin` of shape (len(rows),). For "orpo" `chosen_input_ids`, `chosen_attention_mask` and
            `chosen_labels`, and the same of `rejected`. For "kto" the three of "dpo" with a row each, again with `KL_`
            in front for each prompt with the answer of the row before it, and `label`, bool of shape (len(rows),).
            Log-probabilities of a reference that are in the rows go along.

        Raises:
            PadfixError: A row lacks a column, or as for `PadCollator`.
        """
        _require_columns(rows, COLUMNS[self.task])
        batch = getattr(self, f"_collate_{self.task}")(rows)
        import torch

        given = [name for name in _REFERENCES if name in rows[0]]
        return {**batch, **{name: torch.tensor([float(row[name]) for row in rows]) for name in given}}  # type: ignore[arg-type]

    def _collate_dpo(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        return self._mask([*_take(rows, "_chosen"), *_take(rows, "_rejected")])

    def _collate_reward(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        import torch

        batch = self._pad([{"input_ids": row[name]} for name in ("chosen_ids", "rejected_ids") for row in rows])
        del batch["labels"]
        return {**batch, "margin": torch.tensor([float(row["margin"]) for row in rows])}  # type: ignore[arg-type]

    def _collate_orpo(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        parts = {name: self._pad(_take(rows, f"_{name}")) for name in ("chosen", "rejected")}
        return {f"{name}_{column}": held for name, part in parts.items() for column, held in part.items()}

    def _collate_kto(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        import torch

        own = _take(rows, "")
        others = [_exchange(row, own[place - 1], self.max_length) for place, row in enumerate(own)]
        mixed = {f"KL_{name}": held for name, held in self._mask(others).items()}
        return {**self._mask(own), **mixed, "label": torch.tensor([bool(row["label"]) for row in rows])}

    def _mask(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return a padded batch with a mask of trained tokens in the place of labels."""
        batch = self._pad(rows)
        labels = batch.pop("labels")
        return {**batch, "completion_mask": (labels != IGNORE_INDEX).long()}

    def _pad(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        return PadCollator(self.pad_token_id, self.pad_to_multiple_of)(rows)


def _require_columns(rows: Sequence[Row], columns: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        missing = [name for name in columns if not isinstance(row, Mapping) or row.get(name) is None]
        if missing:
            raise PadfixError(
                f"Row {place} has no {missing[0]}. Encode the rows with the same task, and let the trainer keep their "
                "columns (remove_unused_columns=False): DPOConfig(**prepared.training_args)"
            )


def _take(rows: Sequence[Row], suffix: str) -> list[dict[str, Any]]:  # ids of any kind
    return [{name: row[name + suffix] for name in ("input_ids", "labels")} for row in rows]


def _exchange(row: Mapping[str, Any], other: Mapping[str, Any], max_length: int | None) -> dict[str, list[int]]:
    """Return the prompt of a row with the answer of another one."""
    start, begin = _find_answer(row["labels"]), _find_answer(other["labels"])
    joined = {name: [*row[name][:start], *other[name][begin:]][:max_length] for name in ("input_ids", "labels")}
    return {name: list(map(int, held)) for name, held in joined.items()}


def _find_answer(labels: Sequence[int]) -> int:
    return next(at for at, label in enumerate(labels) if label != IGNORE_INDEX)
