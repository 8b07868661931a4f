"""One BOS at the start of a sequence: ids, labels and masks are cut together; text too.

`tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))` starts with two `<|begin_of_text|>`: one from the
template and one from the tokenizer, whose attributes do not show it.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.tokens.calls import encode_raw

if TYPE_CHECKING:
    from typing import TypeAlias

    from llama_padfix.core.types import TokenizerLike

    # A list, tuple, numpy array or torch tensor of ids or of rows: they share no type with the methods used here.
    Column: TypeAlias = Any
    Columns: TypeAlias = dict[str, Column]

# The fill of each per-token column, as in transformers' `pad` and TRL's collators.
_MASKS = ("attention_mask", "assistant_masks", "completion_mask", "loss_mask")
_ZERO = (*_MASKS, "token_type_ids", "position_ids", "offset_mapping")
_FILLS = {"labels": IGNORE_INDEX, "special_tokens_mask": 1, **dict.fromkeys(_ZERO, 0)}


class _Run(NamedTuple):
    """The run of BOS at the start of a row."""

    start: int
    """Where the real tokens of the row start."""
    surplus: int
    """How many BOS are too many."""
    trailing: int
    """How many positions pad the end of the row."""


def dedupe_bos(
    value: Any,  # the same kind of value comes back
    tokenizer: TokenizerLike | None = None,
    *,
    bos_token_id: int | None = None,
    bos_token: str | None = None,
    pad_token_id: int | None = None,
) -> Any:
    """Return `value` with a run of two or more BOS at the start of each sequence made into one.

    `value` itself is never changed. A BOS later in a row (packed documents) stays.

    Padding on the left is skipped: by `attention_mask` where there is one, else by `pad_token_id`; with neither a row
    starts at its first id. Lists get shorter. A 2-D array keeps one width: rows are refilled on their own padding side
    (a row without padding on the left if another row is left-padded, else on the right), then columns that have become
    padding in every row are trimmed. Without a mask a pad id at the end may be a true stop token, so only refilled
    positions are trimmed.

    In a mapping `labels`, `attention_mask`, `token_type_ids`, `position_ids`, `assistant_masks`, `completion_mask`,
    `loss_mask`, `special_tokens_mask` and `offset_mapping` are cut at the same places; other keys pass through. In a
    row that is cut the label of the one BOS becomes -100. `position_ids` lose the last numbers of the first document,
    so that it still counts 0, 1, 2, ... and later documents keep theirs. A `BatchEncoding` that is cut loses its
    `encodings` (`char_to_token`), which would no longer fit.

    Args:
        value: A row of ids (list, tuple, 1-D numpy array or torch tensor), a batch (list of rows, ragged or not; 2-D
            array or tensor), a mapping with `input_ids` (one row, or a batch of columns, so that
            `dataset.map(lambda row: dedupe_bos(row, tokenizer))` works), a text, or a list of texts or mappings.
        tokenizer: Supplies the keywords that are not given, and nothing else.
        bos_token_id: The id of BOS, for ids.
        bos_token: BOS as text, for texts.
        pad_token_id: The id that fills a row.

    Returns:
        The same kind of value with the same dtype, perhaps `value` itself where nothing is cut.

    Raises:
        PadfixError: No BOS is known, padding and BOS cannot be told apart, a pad id is needed and unknown, a column is
            not as long as `input_ids`, or `value` is of another kind.
    """
    bos_id = bos_token_id if bos_token_id is not None else getattr(tokenizer, "bos_token_id", None)
    bos_text = bos_token if bos_token is not None else getattr(tokenizer, "bos_token", None)
    pad_id = pad_token_id if pad_token_id is not None else getattr(tokenizer, "pad_token_id", None)
    if isinstance(value, str):
        return _dedupe_text(value, bos_text)
    if isinstance(value, Sequence) and value and all(isinstance(item, (str, Mapping)) for item in value):
        each = [dedupe_bos(item, bos_token_id=bos_id, bos_token=bos_text, pad_token_id=pad_id) for item in value]
        return tuple(each) if isinstance(value, tuple) else each
    if bos_id is None:
        raise _no_bos("bos_token_id=128000")
    if not isinstance(value, Mapping):
        return _dedupe_columns({"input_ids": value}, bos_id, pad_id)["input_ids"]
    return _dedupe_mapping(value, bos_id, pad_id)


def _dedupe_mapping(value: Mapping[str, Any], bos_id: int, pad_id: int | None) -> Mapping[str, Any]:
    """Return a row or a batch of columns whose `input_ids` and every column of the same length are cut together."""
    if value.get("input_ids") is None:
        raise PadfixError(
            f"The mapping has the keys {describe(list(value))} but no input_ids, so there is nothing to cut. "
            'Pass the tokenized row, or the text itself: dedupe_bos(row["text"], tokenizer).'
        )
    names = [name for name in value if name in _FILLS or name == "input_ids"]
    columns = {name: value[name] for name in names if value[name] is not None}
    done = _dedupe_columns(columns, bos_id, pad_id)
    changed = done["input_ids"] is not columns["input_ids"]
    if changed and value.get("seq_lengths") is not None:
        raise PadfixError(
            "The packed row starts with more than one BOS and has seq_lengths, which would no longer add up. "
            "Run dedupe_bos before packing."
        )
    if isinstance(value, UserDict):  # transformers' BatchEncoding
        return type(value)({**value, **done}) if changed else value
    return {**value, **done}


def encode_with_one_bos(tokenizer: TokenizerLike, text: str) -> tuple[list[int], bool]:
    """Return the ids of a text with exactly one BOS in front, and whether the text had several.

    A tokenizer without BOS gives the ids of the text as it is. Control tokens in the text are recognized.
    """
    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    single = dedupe_bos(text, bos_token=bos) if bos is not None else text
    ids = encode_raw(tokenizer, single)
    if bos_id is not None and ids[:1] != [bos_id]:
        ids = [bos_id, *ids]
    return ids, single != text


def _dedupe_text(text: str, bos: str | None) -> str:
    if not bos:
        raise _no_bos('bos_token="<|begin_of_text|>"')
    rest = text
    while rest.startswith(bos):
        rest = rest[len(bos) :]
    return text if rest == text else bos + rest


def _no_bos(keyword: str) -> PadfixError:
    return PadfixError(f"No BOS is known, so a doubled one cannot be found. Pass tokenizer, or {keyword} (Llama 3).")


def _dedupe_columns(columns: Columns, bos: int, pad: int | None) -> Columns:
    """Return the columns, cut; the same objects where no row has a BOS too many."""
    ids = columns["input_ids"]
    if _is_array(ids):
        axes = ids.ndim + (ids.dtype == object)
    elif isinstance(ids, Sequence) and all(map(_is_vector, ids)):
        axes = 2
    else:
        axes = int(isinstance(ids, Sequence) and all(hasattr(item, "__index__") for item in ids))
    if axes not in (1, 2):
        raise PadfixError(
            f"Neither a row of ids nor a batch of rows: {type(ids).__name__} {describe(ids)}. "
            "For a dataset write: dataset.map(lambda row: dedupe_bos(row, tokenizer))."
        )
    if axes == 1:
        vectors = {name: [column] for name, column in columns.items() if _is_vector(column)}
        cut = _cut_rows(vectors, bos, pad, rectangular=False)
        return columns if cut is None else {**columns, **{name: rows[0] for name, rows in cut.items()}}
    # `labels` of a classifier, one a row, are not per token.
    batch = {name: column for name, column in columns.items() if _is_vector(column) and all(map(_is_vector, column))}
    cut = _cut_rows(batch, bos, pad, rectangular=_is_array(ids) and ids.ndim == 2)
    return columns if cut is None else {**columns, **cut}


def _cut_rows(columns: Columns, bos: int, pad: int | None, *, rectangular: bool) -> Columns | None:
    """Cut every column of a batch at the same places; None where there is nothing to cut."""
    ids, masks = _to_lists(columns["input_ids"]), _to_lists(columns.get("attention_mask"))
    if masks is not None:
        _require_same_lengths("attention_mask", masks, ids)
    runs = [_find_run(row, None if masks is None else masks[i], bos, pad) for i, row in enumerate(ids)]
    if not any(run.surplus for run in runs):
        return None
    for name, column in columns.items():
        _require_same_lengths(name, column, ids)
    lengths = [len(row) for row in ids]
    some_left = any(0 < run.start < length for run, length in zip(runs, lengths, strict=True))
    to_left = [run.start > 0 or (some_left and not run.trailing) for run in runs]
    sides = list(zip(runs, to_left, strict=True))
    # The columns that are padding in every row only since the cut.
    trim_left = min(r.start + r.surplus * left for r, left in sides) - min(r.start for r in runs)
    trim_right = min(r.trailing + r.surplus * (not left) for r, left in sides) - min(r.trailing for r in runs)

    def order_of(i: int, drop_at: int) -> list[int]:
        """Return the old positions in their new order; -1 for a refilled one."""
        surplus = runs[i].surplus
        kept = [k for k in range(lengths[i]) if not drop_at <= k < drop_at + surplus]
        placed = [-1] * surplus + kept if to_left[i] else kept + [-1] * surplus
        return placed[trim_left : lengths[i] - trim_right] if rectangular else kept

    orders = [order_of(i, run.start + 1) for i, run in enumerate(runs)]
    done = {}
    for name, column in columns.items():
        fill, own = _FILLS.get(name, 0), orders
        if name == "input_ids" and any(-1 in order for order in orders):
            fill = pad if pad is not None else _copy_pad_id(ids, masks)
        elif name == "labels":
            # The one BOS that stays has no label: position 0 is never trained.
            kept = [run.start if run.surplus else -1 for run in runs]
            own = [[-1 if k == kept[i] else k for k in order] for i, order in enumerate(orders)]
        elif name == "position_ids":
            numbers = _to_lists(column)
            own = [order_of(i, _end_of_count(numbers[i], run)) for i, run in enumerate(runs)]
        done[name] = _take(column, own, fill)
    return done


def _find_run(row: Column, mask: Column, bos: int, pad: int | None) -> _Run:
    length = len(row)
    real = [pad in (None, bos) or token_id != pad for token_id in row] if mask is None else mask
    start = end = next((k for k in range(length) if real[k]), length)
    trailing = 0 if mask is None else next((k for k in range(length) if mask[length - 1 - k]), length)
    while end < length and row[end] == bos and real[end]:
        end += 1
    surplus = max(0, end - start - 1)
    if surplus and mask is None and pad == bos:
        raise PadfixError(
            f"A row starts with {end} times the id {bos}, which is both BOS and padding here, so that the two "
            "cannot be told apart. Pass a mapping with input_ids and attention_mask."
        )
    return _Run(start, surplus, trailing)


def _end_of_count(numbers: Column, run: _Run) -> int:
    """Return where the last `surplus` numbers of the first document begin."""
    end = run.start + 1
    while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
        end += 1
    return max(run.start + 1, end - run.surplus)


def _copy_pad_id(ids: Column, masks: Column) -> int:
    for row, mask in zip(ids, masks or [], strict=False):
        if 0 in mask:
            return int(row[mask.index(0)])
    raise PadfixError(
        "The rows of a rectangular batch lose different numbers of BOS and must be refilled, but no pad id is "
        "known. Pass pad_token_id=, or a tokenizer that has one: `prepare(tokenizer)` sets it."
    )


def _take(column: Column, orders: list[list[int]], fill: int) -> Column:
    rows = [_take_row(row, order, fill) for row, order in zip(column, orders, strict=True)]
    if not _is_array(column) or column.ndim == 1 or len(set(map(len, orders))) > 1:
        return tuple(rows) if isinstance(column, tuple) else rows
    narrow = column[:, : len(orders[0])]
    taken = narrow.clone() if hasattr(narrow, "clone") else narrow.copy()
    for i, row in enumerate(rows):
        taken[i] = row
    return taken


def _take_row(row: Column, order: list[int], fill: int) -> Column:
    if not _is_array(row):
        taken = [fill if k < 0 else row[k] for k in order]
        return tuple(taken) if isinstance(row, tuple) else taken
    array = row[[max(k, 0) for k in order]]
    if -1 in order:
        array[[j for j, k in enumerate(order) if k < 0]] = fill
    return array


def _require_same_lengths(name: str, column: Column, ids: Column) -> None:
    for i, (row, row_ids) in enumerate(zip_longest(column, ids, fillvalue=())):
        if len(row) != len(row_ids):
            raise PadfixError(
                f"Row {i}: {name} has {len(row)} entries and input_ids {len(row_ids)}, so they cannot be cut "
                f"together. Pass {name} with one entry a token, or drop it first."
            )


def _to_lists(rows: Column) -> Column:
    if _is_array(rows) and rows.dtype != object:
        return rows.tolist()
    return None if rows is None else [row.tolist() if _is_array(row) else row for row in rows]


def _is_array(value: object) -> bool:
    """Return True for a numpy array or a torch tensor with at least one axis; neither is imported."""
    return hasattr(value, "dtype") and hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _is_vector(value: object) -> bool:
    return _is_array(value) or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))
