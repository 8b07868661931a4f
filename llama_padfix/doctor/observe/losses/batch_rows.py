"""The rows of tokens in a batch of any loss: labels, masks of completions, pairs, prompts with their completions.

| loss | what its batch holds | rows |
|---|---|---|
| language modeling (`Trainer`, SFT) | `input_ids`, `labels` | one each |
| DPO of TRL 1.x | `input_ids`, `completion_mask`; the rejected half behind the chosen one | chosen, rejected |
| KTO of TRL 1.x | `input_ids`, `completion_mask`, `label` | one each |
| ORPO, CPO, DPO to TRL 0.11 | `chosen_input_ids`, `chosen_labels`, and `rejected_...` | chosen, rejected |
| DPO of TRL 0.12 to 0.29 | `prompt_input_ids`, `chosen_input_ids`, `rejected_input_ids` | chosen, rejected |
| TPO | as DPO, with the references behind the rejected ones | chosen, rejected, reference |
| reward to TRL 0.23 | `input_ids_chosen`, `input_ids_rejected` | chosen, rejected |
| GRPO, RLOO | `prompt_ids`, `completion_ids`, `completion_mask` | one each |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX

if TYPE_CHECKING:
    _Columns = Mapping[str, Any]  # arrays or tensors of shape (rows, width) by name; of a row, of shape (tokens,)

PER_TOKEN = ("input_ids", "labels", "attention_mask", "position_ids")
"""The columns of a row that the checks read: one value for each token."""

MASKS = ("assistant_masks", "assistant_tokens_mask", "completion_mask")
"""The columns of which trainers make labels."""

_PAIR = ("chosen", "rejected")
_SHORT = {"input_ids": "ids", "attention_mask": "mask"}  # as GRPO and the preference sets of TRL 1.x spell them


def rows_of_losses(batch: object, *, blocks: Sequence[str] = ()) -> Iterator[tuple[str, _Columns]]:
    """Yield the rows of tokens in a batch, each with the name of its part, and with `labels` where some are trained.

    The parts are "" for plain rows, "chosen" and "rejected" of pairs (which alternate), and "prompt" where there is
    nothing but prompts. Columns of other shapes than the ids' are left out, but for labels of two dimensions.

    Args:
        batch: a mapping of arrays or tensors; anything else holds no rows.
        blocks: the parts that follow one another in plain rows, such as ("chosen", "rejected").
    """
    if not isinstance(batch, Mapping):
        return
    if whole := _columns(batch, "{}"):
        if not blocks and _repeats_prompts(batch, whole):
            blocks = _PAIR
        yield from _split(whole, blocks) if blocks else (("", row) for row in _rows(whole))
        return
    if both := _columns(batch, "concatenated_{}"):
        yield from _split(both, _PAIR)
        return
    prompt = _columns(batch, "prompt_{}")
    names = (*_PAIR, "completion")
    found = {name: _columns(batch, f"{name}_{{}}") or _columns(batch, f"{{}}_{name}") for name in names}
    parts = {
        "" if name == "completion" else name: _join(prompt, part, batch) if prompt and "labels" not in part else part
        for name, part in found.items()
        if part
    }
    rows = {name: list(_rows(part)) if isinstance(part, Mapping) else part for name, part in parts.items()}
    if not parts and prompt:
        rows = {"prompt": list(_rows(prompt))}
    for place in range(max(map(len, rows.values()), default=0)):
        yield from ((name, part[place]) for name, part in rows.items() if place < len(part))


def label_by_masks(columns: _Columns) -> tuple[_Columns, tuple[str, ...]]:
    """Return columns with labels made of their masks, as trainers make them, and the names of these masks.

    Columns that have labels, or no mask, are returned as they are, with no name.
    """
    masks = tuple(name for name in MASKS if columns.get(name) is not None)
    if columns.get("labels") is not None or not masks:
        return columns, ()
    import numpy as np

    ids, chosen = _array(columns["input_ids"]), [_array(columns[name]) for name in masks]
    if any(mask.shape != ids.shape for mask in chosen):
        return columns, ()
    return {**columns, "labels": np.where(np.all(chosen, axis=0), ids, IGNORE_INDEX)}, masks


def _columns(batch: _Columns, pattern: str) -> _Columns:
    """Return the columns of one part by their plain names; none where it has no ids of two dimensions."""
    found = {}
    for name in (*PER_TOKEN, *MASKS):
        keys = (name,) if pattern == "{}" else (name, _SHORT.get(name, name))
        held = [batch[key] for key in map(pattern.format, keys) if getattr(batch.get(key), "ndim", None) == 2]
        if held:
            found[name] = held[0]
    if "input_ids" not in found:
        return {}
    shape = tuple(found["input_ids"].shape)
    return {name: held for name, held in found.items() if name == "labels" or tuple(held.shape) == shape}


def _rows(part: _Columns) -> Iterator[_Columns]:
    columns, _ = label_by_masks(part)
    for place in range(len(columns["input_ids"])):
        yield {name: columns[name][place] for name in PER_TOKEN if name in columns}


def _split(part: _Columns, blocks: Sequence[str]) -> Iterator[tuple[str, _Columns]]:
    """Yield the rows of blocks in turn: the first of each, then the second of each."""
    rows = list(_rows(part))
    size = len(rows) // len(blocks)
    for place in range(size):
        yield from ((name, rows[at * size + place]) for at, name in enumerate(blocks))


def _repeats_prompts(batch: _Columns, part: _Columns) -> bool:
    """Return True if each row of the second half has the prompt of its row in the first half, as in DPO."""
    mask = part.get("completion_mask")
    if mask is None or "labels" in part or batch.get("label") is not None or len(mask) % 2 or not len(mask):
        return False
    ids, answer = _array(part["input_ids"]), _array(mask) != 0
    half = len(ids) // 2
    lengths = [int(row.argmax()) if row.any() else 0 for row in answer]
    return all(
        lengths[at] == lengths[at + half] > 0 and bool((ids[at] == ids[at + half])[: lengths[at]].all())
        for at in range(half)
    )


def _join(prompt: _Columns, completion: _Columns, batch: _Columns) -> Sequence[_Columns]:
    """Return the rows of prompts and completions that are padded apart, without that padding; completions train."""
    import numpy as np

    seen = [_shown(part) for part in (prompt, completion)]
    ids = [_array(part["input_ids"]) for part in (prompt, completion)]
    trained = np.ones_like(ids[1])
    tools = batch.get("tool_mask")  # 0 for what a tool wrote between the model's own tokens
    if tools is not None and tuple(tools.shape) == ids[1].shape:
        trained = _array(tools)
    rows: list[_Columns] = []
    for place in range(min(map(len, ids))):
        before, after = (part[place][mask[place]] for part, mask in zip(ids, seen, strict=True))
        answer = np.where(trained[place][seen[1][place]] != 0, after, IGNORE_INDEX)
        labels = np.concatenate([np.full_like(before, IGNORE_INDEX), answer])
        rows.append({"input_ids": np.concatenate([before, after]), "labels": labels})
    return rows


def _shown(part: _Columns) -> Any:  # a boolean array
    import numpy as np

    return _array(part["attention_mask"]) != 0 if "attention_mask" in part else np.ones(part["input_ids"].shape, bool)


def _array(held: Any) -> Any:  # a list, an array or a tensor; an array
    import numpy as np

    return np.asarray(held.detach().cpu() if hasattr(held, "detach") else held)
