"""One BOS at the start of a sequence: ids, labels and masks are cut together; text too.

`tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))` starts with two `<|begin_of_text|>`: one from the
template and one from the tokenizer, whose attributes do not show it.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.kinds import refuse
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.tokens.doubled.arrow import dedupe_dataset, dedupe_table
from llama_padfix.tokens.doubled.lists import cut_rows_of_lists, paused_collection
from llama_padfix.tokens.doubled.rows import cut_row, dedupe_columns
from llama_padfix.tokens.doubled.runs import FILLS, packed_row

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike


def dedupe_bos(
    value: Any,  # the same kind of value comes back
    tokenizer: TokenizerLike | None = None,
    *,
    bos_token_id: int | None = None,
    bos_token: str | None = None,
    pad_token_id: int | None = None,
) -> Any:
    """Return `value` with a run of two or more BOS at the start of each sequence made into one.

    `value` itself is never changed, and rows without a BOS too many are not copied. A BOS later in a row (packed
    documents) stays.

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
            `dataset.map(lambda row: dedupe_bos(row, tokenizer))` works), a text, a list of texts or mappings, an Arrow
            table or column, or what `datasets` has: all rows of these are cut at once.
        tokenizer: Supplies the keywords that are not given, and nothing else.
        bos_token_id: The id of BOS, for ids.
        bos_token: BOS as text, for texts.
        pad_token_id: The id that fills a row.

    Returns:
        The same kind of value with the same dtype, `value` itself where nothing is cut (a mapping: its columns). In
        Arrow a list of fixed size becomes one of any size where a row is cut.

    Raises:
        PadfixError: No BOS is known, padding and BOS cannot be told apart, a pad id is needed and unknown, a column is
            not as long as `input_ids`, or `value` is of another kind.
    """
    if tokenizer is not None and not hasattr(tokenizer, "bos_token_id"):
        raise refuse(tokenizer, "tokenizer")
    bos_id = bos_token_id if bos_token_id is not None else getattr(tokenizer, "bos_token_id", None)
    bos_text = bos_token if bos_token is not None else getattr(tokenizer, "bos_token", None)
    pad_id = pad_token_id if pad_token_id is not None else getattr(tokenizer, "pad_token_id", None)
    return _dedupe(value, bos_id, bos_text, pad_id)


def _dedupe(value: Any, bos_id: int | None, bos_text: str | None, pad_id: int | None) -> Any:  # of its kind
    if isinstance(value, str):
        return _dedupe_text(value, bos_text)
    again = partial(_dedupe, bos_id=bos_id, bos_text=bos_text, pad_id=pad_id)
    if isinstance(value, Sequence) and value:
        kinds = {*map(type, value)}
        if all(issubclass(kind, (str, Mapping)) for kind in kinds):
            with paused_collection(0 if str in kinds else len(value) * len(value[0])):
                return _dedupe_items(value, again, bos_id, bos_text, pad_id)
    if bos_id is None:
        raise _no_bos("bos_token_id=128000")
    if type(value).__module__.startswith(("pyarrow.", "datasets.")):
        made = _dedupe_stored(value, again, bos_id, pad_id)
        if made is not None:
            return made
    if not isinstance(value, Mapping):
        return dedupe_columns({"input_ids": value}, bos_id, pad_id)["input_ids"]
    return _dedupe_mapping(value, bos_id, pad_id)


def _dedupe_items(
    value: Sequence[Any], again: Callable[[Any], Any], bos_id: int | None, bos_text: str | None, pad_id: int | None
) -> Sequence[Any]:  # of texts or mappings
    """Return texts or rows, each cut by itself where they are not all alike; most need no more than a look."""
    if type(value[0]) is dict and bos_id is not None:
        rows = cut_rows_of_lists(value, bos_id, pad_id)
        if rows is not None:
            return tuple(rows) if isinstance(value, tuple) else rows
    doubled, made, changed = 2 * (bos_text or ""), list[Any](), False
    for item in value:
        cut: Any = None
        if type(item) is dict and bos_id is not None:
            cut = cut_row(item, bos_id, pad_id)
        elif type(item) is str and doubled and not item.startswith(doubled):
            cut = item
        if cut is None:
            cut = again(item)
        changed = changed or cut is not item
        made.append(cut)
    if not changed:
        return value
    return tuple(made) if isinstance(value, tuple) else made


def _dedupe_stored(value: Any, again: Callable[[Any], Any], bos_id: int, pad_id: int | None) -> Any:  # of its type
    """Return what Arrow or `datasets` holds, cut; None for anything else of theirs, such as a row."""
    if type(value).__module__.startswith("datasets."):
        if not hasattr(value, "with_format"):
            return None
        if isinstance(value, Mapping):
            kind: Any = type(value)  # made of its items, as a dict is
            return kind({split: again(rows) for split, rows in value.items()})
        is_stream = not hasattr(value, "__len__")
        return value.map(again, batched=True) if is_stream else dedupe_dataset(value, bos_id, pad_id)
    if hasattr(value, "column_names"):
        return dedupe_table(value, bos_id, pad_id)
    import pyarrow

    table = pyarrow.table({"input_ids": value})
    cut = dedupe_table(table, bos_id, pad_id)
    if cut is table:
        return value
    column = cut.column("input_ids")
    return column if isinstance(value, pyarrow.ChunkedArray) else column.combine_chunks()


def _dedupe_mapping(value: Mapping[str, Any], bos_id: int, pad_id: int | None) -> Mapping[str, Any]:
    """Return a row or a batch of columns whose `input_ids` and every column of the same length are cut together."""
    if value.get("input_ids") is None:
        raise PadfixError(
            f"The mapping has the keys {describe(list(value))} but no input_ids, so there is nothing to cut. "
            'Pass the tokenized row, or the text itself: dedupe_bos(row["text"], tokenizer).'
        )
    columns = {name: value[name] for name in value if name in FILLS and value[name] is not None}
    done = dedupe_columns(columns, bos_id, pad_id)
    changed = done["input_ids"] is not columns["input_ids"]
    if changed and value.get("seq_lengths") is not None:
        raise packed_row()
    if isinstance(value, UserDict):  # transformers' BatchEncoding
        return type(value)({**value, **done}) if changed else value
    return {**value, **done} if changed or type(value) is not dict else value  # `datasets` hands out rows of its own


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
