"""A picture of what is trained: every token of some rows, with its role, its label and the findings of the checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.encoding.dataset.open_rows import as_rows
from llama_padfix.encoding.media.choose import choose_encoder, split_processor
from llama_padfix.tokens.calls import check_tokenizer, preserve_backend_state
from llama_padfix.view.document import MaskDocument, make_rows
from llama_padfix.view.html import as_notebook, as_page, save_page
from llama_padfix.view.problems import check_rows
from llama_padfix.view.read_rows import read_rows, take_rows
from llama_padfix.view.terminal import as_terminal

if TYPE_CHECKING:
    from llama_padfix.core.types import ConfiguredModel, Rows, TokenizerLike
    from llama_padfix.encoding.encoder import ChatEncoder


class MaskView(MaskDocument):
    """Rows as they are trained: `print(view)` in a terminal, the view itself in a notebook, `view.save("mask.html")`.

    `rows` holds the rows shown, `pieces` the text of each of their ids, `report` the findings of the checks of rows,
    and `total` the number of all rows, None for a stream.
    """

    def to_text(self, *, color: bool = False, max_rows: int | None = None, max_tokens: int | None = None) -> str:
        """Return the rows for a terminal, trained text in double brackets.

        Args:
            color: Add ANSI colors.
            max_rows: Show only the first rows; the text names how many are left out, here and below.
            max_tokens: Show only the first and last tokens of a longer row.
        """
        return as_terminal(self, color=color, max_rows=max_rows, max_tokens=max_tokens)

    def to_html(self) -> str:
        """Return a self-contained page: one file without any address, in which everything from the rows is escaped."""
        return as_page(self)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, whole or not at all; a file of that name is replaced.

        Returns:
            The path.

        Raises:
            PadfixError: The path is a folder, or its folder does not exist or cannot be written to.
        """
        return save_page(self, Path(path))

    def __str__(self) -> str:
        no_color = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return self.to_text(color=sys.stdout.isatty() and not no_color, max_rows=10, max_tokens=1000)

    def _repr_html_(self) -> str:
        return as_notebook(self)


def view_mask(
    rows: Rows | str | os.PathLike[str],
    tokenizer: TokenizerLike,
    *,
    row_numbers: Sequence[int] | None = None,
    max_rows: int = 200,
    encoder: ChatEncoder | None = None,
    model: ConfiguredModel | None = None,
    title: str = "What is trained",
) -> MaskView:
    """Return a picture of which tokens of some rows count in the loss, and of what is wrong with them.

    Encoded rows are shown as they are: by their `labels`, or else by the masks of which TRL makes labels
    (`assistant_masks`, `completion_mask`). Raw rows of any known shape are encoded first. A row that cannot be encoded
    is shown with the reason. No argument is changed.

    Args:
        rows: A dataset, a list or stream of rows, one collated batch, a loader of batches, one row or one
            conversation; a path, a frame or an Arrow table as for `encode_dataset`.
        tokenizer: Of the rows; also learns the roles from its chat template. For raw rows with media, a processor.
        row_numbers: Which rows to show, from 0; the first `max_rows` if None.
        max_rows: The most rows to show, above 0.
        encoder: Encodes raw rows; `ChatEncoder(tokenizer)` if None.
        model: A model, or what has its `config` and `generation_config`, for the checks that compare rows with it.
        title: Of the page.

    Raises:
        PadfixError: `rows` holds no rows or not those of `row_numbers`, or they are raw and the tokenizer has no chat
            template.
    """
    tokenizer, processor = split_processor(tokenizer)
    if processor is not None and encoder is None:
        encoder = choose_encoder(processor, None, "sft", False)[0](tokenizer)
    check_tokenizer(tokenizer)
    taken = take_rows(as_rows(rows), row_numbers, max_rows)
    with preserve_backend_state(tokenizer):
        read = read_rows(taken, tokenizer, encoder)
        checked = check_rows(taken, read, tokenizer, model, processor)
        drawn, pieces = make_rows(read, checked, tokenizer)
    return MaskView(drawn, pieces, checked.report, taken.source, taken.total, title)
