"""Plain texts to ids and labels in flat arrays: one call of the engine, one search for the turns of rendered chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.batch.flat_rows import Bulk, FlatRows
from llama_padfix.encoding.encoded_rows import EncodedRow
from llama_padfix.encoding.masking.labels import mask_labels
from llama_padfix.encoding.masking.text_rows import TextEncoder, make_chat_row, make_text_row
from llama_padfix.encoding.masking.turns_in_ids import TurnMarkers, is_any
from llama_padfix.tokens.calls import is_of_transformers

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray, IdArray, LongArray
    from llama_padfix.encoding.settings import EncodeSettings


Encode = Callable[[Sequence[str]], "tuple[IdArray, LongArray]"]


@dataclass
class TextBatchEncoder:
    """Encodes many plain texts as `TextEncoder` encodes each."""

    texts: TextEncoder
    encode: Encode
    """Returns the ids of texts, one after another, and the number of ids of each."""
    rows: int = 0
    """Rows encoded so far."""
    compared: set[bool] = field(default_factory=set)
    """Whether a rendered chat (True), and whether another text, was compared with the row encoder's."""

    def encode_texts(self, texts: Mapping[int, str], settings: EncodeSettings) -> Bulk:
        """Encode texts by their rows; those that only `TextEncoder` decides about are left out of the result.

        Such are texts that are refused or repaired, and chats whose generation prompt writes more than stands before
        earlier answers; with `truncation="error"` also those that are too long.
        """
        import numpy as np

        usual = {row: text for row, text in texts.items() if self.texts.is_usual(text)}
        if not usual:
            return Bulk(FlatRows.empty())
        ids, sizes = self.encode([*usual.values()])
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        flat = FlatRows(np.fromiter(usual, np.int64, len(usual)), bounds, ids, ids, sizes, 0).keep(sizes > 0)
        bos, starts = self.texts.tokenizer.bos_token_id, flat.bounds[:-1]
        if bos is not None:
            flat = _insert(flat, starts, flat.input_ids[starts] != bos, bos)
        is_chat = np.fromiter((self.texts.may_be_chat(usual[row]) for row in flat.rows.tolist()), bool, len(flat.rows))
        chats, others = self._label_chats(flat.take(is_chat), "last" if settings.train_on == "last" else "assistant")
        plain = self._label_whole(flat.take(~is_chat).join(others))
        made, firsts, long = FlatRows.empty(), list[int](), dict[int, EncodedRow]()
        for kind, part in ((True, chats), (False, plain)):
            fits = np.ones(len(part.rows), bool) if settings.max_length is None else part.sizes <= settings.max_length
            if settings.truncation != "error":
                long.update(self._make_rows(part.take(~fits), is_chat=kind))
            part = part if fits.all() else part.take(fits)
            made = made.join(part)
            if len(part.rows) and kind not in self.compared:
                self.compared.add(kind)
                firsts.append(int(part.rows[0]))
        return Bulk(made, self._find_notes(chats), long, firsts)

    def _label_chats(self, chats: FlatRows, train_on: str) -> tuple[FlatRows, FlatRows]:
        """Label the answers of rendered chats; return the chats, and the texts in which none is found.

        Those of which ids alone do not tell it are in neither.
        """
        import numpy as np

        try:
            markers = self.texts.markers if len(chats.rows) else None
        except PadfixError:
            markers = None
        if markers is None:
            return FlatRows.empty(), FlatRows.empty()
        labels, known = _find_labels(chats.input_ids, chats.sizes, markers, train_on)
        trained = np.logical_or.reduceat(labels != IGNORE_INDEX, chats.bounds[:-1])
        labeled = replace(chats, labels=labels)
        return labeled.take(known & trained), labeled.take(known & ~trained)

    def _label_whole(self, flat: FlatRows) -> FlatRows:
        """Label plain texts, each with an end of text behind it; one of a single token is left out."""
        end, ends = self.texts.text_end_id, flat.bounds[1:]
        if end is not None and len(flat.rows):
            flat = _insert(flat, ends, flat.input_ids[ends - 1] != end, end)
        labels = flat.input_ids.copy()
        labels[flat.bounds[:-1]] = IGNORE_INDEX
        return replace(flat, labels=labels).take(flat.sizes > 1)

    def _find_notes(self, chats: FlatRows) -> dict[int, Mapping[str, str]]:
        """Return the notes on chats with an empty answer, which trains its end alone."""
        import numpy as np

        if not len(chats.rows):
            return {}
        ends = is_any(chats.labels, self.texts.markers.stop_ids).nonzero()[0]
        empty = ends[chats.labels[ends - 1] == IGNORE_INDEX]
        places = np.unique(np.searchsorted(chats.bounds, empty, side="right") - 1)
        return {row: {"empty": ""} for row in chats.rows[places].tolist()}

    def _make_rows(self, flat: FlatRows, *, is_chat: bool) -> Iterator[tuple[int, EncodedRow]]:
        """Yield rows one by one, as `TextEncoder` makes them."""
        edges = flat.bounds.tolist()
        for row, start, end in zip(flat.rows.tolist(), edges, edges[1:], strict=False):
            ids, labels = flat.input_ids[start:end].tolist(), flat.labels[start:end].tolist()
            made = make_chat_row(ids, labels, self.texts.markers.stop_ids, {}) if is_chat else make_text_row(ids, {})
            yield row, made


def _insert(flat: FlatRows, places: LongArray, chosen: BoolArray, token_id: int) -> FlatRows:
    """Return the rows, without labels yet, with a token more at the place of each chosen row."""
    import numpy as np

    if not chosen.any():
        return flat
    ids = np.insert(flat.input_ids, places[chosen], token_id)
    bounds = flat.bounds + np.concatenate([[0], np.cumsum(chosen)])
    return replace(flat, bounds=bounds, input_ids=ids, labels=ids, lengths=flat.lengths + chosen)


def _find_labels(ids: IdArray, sizes: LongArray, markers: TurnMarkers, train_on: str) -> tuple[IdArray, BoolArray]:
    """Return the labels of joined rows, and which rows ids alone tell; a row that they do not is found by halving."""
    import numpy as np

    try:
        return mask_labels(ids, markers, train_on=train_on, lengths=sizes), np.ones(len(sizes), bool)
    except PadfixError:
        if len(sizes) == 1:
            return np.full_like(ids, IGNORE_INDEX), np.zeros(1, bool)
    half = len(sizes) // 2
    cut = int(sizes[:half].sum())
    parts = [(ids[:cut], sizes[:half]), (ids[cut:], sizes[half:])]
    labels, known = zip(*(_find_labels(*part, markers, train_on) for part in parts), strict=True)
    return np.concatenate(labels), np.concatenate(known)


def make_text_batch_encoder(texts: TextEncoder, encode: Encode) -> TextBatchEncoder | None:
    """Return the batch encoder of texts; None for a tokenizer that need not give the ids of its backend."""
    tokenizer = texts.tokenizer
    is_known = getattr(tokenizer, "is_fast", False) and is_of_transformers(tokenizer)
    return TextBatchEncoder(texts, encode) if is_known else None
