"""A collator with the interface of the class that TRL has dropped, for old scripts, with masks that are right."""

from __future__ import annotations

import functools
import itertools
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.core.kinds import refuse
from llama_padfix.encoding.collator import PadCollator
from llama_padfix.encoding.encoded_rows import label_tokens
from llama_padfix.encoding.masking.labels import find_markers
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.tokens.control import special_ids

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import Row, TokenizerLike

logger = logging.getLogger(__name__)

_FIRST_MARK = 0xF0000  # of Unicode's private plane: one character stands for one control token


class DataCollatorForCompletionOnlyLM:
    """Pad a batch and train what follows `response_template`, for scripts written for the class that TRL has dropped.

    `prepare(tokenizer).encode(dataset)` with its `collator` needs no template strings, trains each answer of any chat
    template exactly, and counts what it drops. A warning recommends it once.

    A call takes rows with `input_ids` (and `attention_mask`) and returns what `PadCollator` does: int64 tensors of
    shape (rows, width). Padding is masked by position, so a stop token that is the pad token too keeps its label. A
    row without an answer is trained nowhere, and a warning shows it.

    A template is a text or a list of ids. A text is found in the row's text, however its characters are split into
    tokens; a token that reaches beyond its end is not trained. A control token in it matches the token itself, never
    a message that spells it. A list is matched as it is.

    Args:
        response_template: What stands in front of an answer. Alone, it trains the text after its last place in a
            row, to the row's end.
        instruction_template: What ends an answer. With it every answer is trained: from behind each response template
            to the next instruction template, or to the next control token that opens a turn in the tokenizer's chat
            template (such as a tool's answer).
        tokenizer: The tokenizer that made the rows; it needs a pad token.
        mlm: Not supported, and neither are other values of `ignore_index`, `padding_free` and `return_tensors`.
        pad_to_multiple_of: See `PadCollator`.

    Raises:
        PadfixError: A row brings labels, the tokenizer has no pad token, or an option is not supported.
    """

    def __init__(
        self,
        response_template: str | Sequence[int],
        instruction_template: str | Sequence[int] | None = None,
        tokenizer: TokenizerLike | None = None,
        mlm: bool = False,
        *,
        ignore_index: int = IGNORE_INDEX,
        padding_free: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
    ) -> None:
        if tokenizer is None:
            raise PadfixError("tokenizer=None is no tokenizer. Pass the one that made the rows.")
        if not hasattr(tokenizer, "pad_token_id"):
            raise refuse(tokenizer, "tokenizer")
        usual = {"mlm": False, "padding_free": False, "return_tensors": "pt", "ignore_index": IGNORE_INDEX}
        given = (mlm, padding_free, return_tensors, ignore_index)
        for name, value in zip(usual, given, strict=True):
            if value != usual[name]:
                raise PadfixError(f"{name}={value!r} is not supported by this collator for old scripts. Leave it out.")
        self.tokenizer = tokenizer
        self.response_template = _require_template("response_template", response_template)
        self.instruction_template: str | list[int] | None = None
        if instruction_template is not None:
            self.instruction_template = _require_template("instruction_template", instruction_template)
        pad_token_id: Any = tokenizer.pad_token_id  # PadCollator refuses None
        self.padding = PadCollator(pad_token_id, pad_to_multiple_of=pad_to_multiple_of)
        self.reader = _Reader(tokenizer)
        _recommend_prepare()

    def __call__(
        self, rows: Sequence[Row | Sequence[int]], return_tensors: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`; see the class."""
        made: list[dict[str, Any]] = []  # a mask is passed on as it is
        missed = []
        for number, given in enumerate(rows):
            row: Mapping[str, Any] = given if isinstance(given, Mapping) else {"input_ids": given}
            if row.get("labels") is not None:
                raise PadfixError(
                    f"Row {number} brings labels, which this collator would replace. Train on them as they are: "
                    "data_collator=PadCollator(tokenizer.pad_token_id)"
                )
            ids = [int(token_id) for token_id in row["input_ids"]]
            labels = label_tokens(ids, [*self._find_answers(ids)])
            if all(label == IGNORE_INDEX for label in labels):
                missed.append(number)
            made.append({"input_ids": ids, "labels": labels, "attention_mask": row.get("attention_mask")})
        if missed:
            logger.warning(
                "llama_padfix: %d of %d rows of a batch hold no answer behind %r, and nothing of them is trained; the "
                "first: %r",
                len(missed),
                len(made),
                self.response_template,
                self.tokenizer.decode(made[missed[0]]["input_ids"])[:200],
            )
        return self.padding(made)

    def _find_answers(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Yield the positions of each answer: the first after its template, and the one behind its last."""
        opened = list(self.reader.find(ids, self.response_template))
        if self.instruction_template is None:
            if opened:
                yield opened[-1][1], len(ids)
            return
        closed = {start for start, _ in self.reader.find(ids, self.instruction_template)}
        closed |= {start for start, _ in opened} | self.reader.find_openings(ids)
        for _, start in opened:
            # A template that begins with such a token closes at its own beginning, which lies before its end.
            yield start, min((place for place in closed if place >= start), default=len(ids))


@functools.cache
def _recommend_prepare() -> None:
    """Log once a process that `prepare` makes better batches."""
    logger.warning(
        "llama_padfix: DataCollatorForCompletionOnlyLM is here for old scripts. Better: "
        "prepared = prepare(tokenizer, model); prepared.encode(dataset); data_collator=prepared.collator"
    )


class _Reader:
    """Finds a template in a row of ids, by its text or by its ids."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self.tokenizer = tokenizer
        specials = special_ids(tokenizer)
        self.marks = {text: chr(_FIRST_MARK + place) for place, text in enumerate(sorted(specials, key=len)[::-1])}
        self.mark_of = {token_id: self.marks[text] for text, token_id in specials.items()}
        self.anchor = encode_raw(tokenizer, "a")
        self.anchored = self._decode(self.anchor)
        self.pieces: dict[int, str] = {}
        self.marked: dict[str, str] = {}

    @functools.cached_property
    def openings(self) -> frozenset[int]:
        """The control tokens that open a turn, of any role, in the tokenizer's chat template."""
        try:
            return frozenset(find_markers(self.tokenizer).turn_start_ids)
        except PadfixError:  # no template, or one without such tokens
            return frozenset()

    def find_openings(self, ids: list[int]) -> set[int]:
        """Return where a turn is opened."""
        return {place for place, token_id in enumerate(ids) if token_id in self.openings}

    def find(self, ids: list[int], template: str | list[int]) -> Iterator[tuple[int, int]]:
        """Yield where a template stands: its first position, and the first behind it, both of whole tokens."""
        if not isinstance(template, str):
            for start in range(len(ids) - len(template) + 1):
                if ids[start : start + len(template)] == template:
                    yield start, start + len(template)
            return
        target = self._mark(template)
        pieces = [self._read(token_id) for token_id in ids]
        starts = [0, *itertools.accumulate(map(len, pieces))][:-1]
        text = "".join(pieces)
        place = text.find(target)
        while place >= 0:
            end = place + len(target)
            yield bisect_right(starts, place) - 1, bisect_left(starts, end)
            place = text.find(target, end)

    def _mark(self, template: str) -> str:
        """Return a template with each control token in it as the character that stands for it."""
        if template not in self.marked:
            self.marked[template] = functools.reduce(
                lambda text, token: text.replace(token, self.marks[token]), self.marks, template
            )
        return self.marked[template]

    def _read(self, token_id: int) -> str:
        """Return the text of one token; a half character is a replacement sign, as in no template."""
        if token_id in self.mark_of:
            return self.mark_of[token_id]
        if token_id not in self.pieces:
            # Behind another token: on its own, a token of SentencePiece loses the space that it begins with.
            self.pieces[token_id] = self._decode([*self.anchor, token_id])[len(self.anchored) :]
        return self.pieces[token_id]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _require_template(name: str, template: object) -> str | list[int]:
    if isinstance(template, str) and template:
        return template
    ids = template.tolist() if hasattr(template, "tolist") else template
    if isinstance(ids, (list, tuple)) and ids and all(isinstance(token_id, int) for token_id in ids):
        return list(ids)
    raise PadfixError(f"{name}={describe(template)} is neither a text nor a list of ids. Usually: '### Response:'")
