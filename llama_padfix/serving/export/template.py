"""The template to save: rewritten as far as every text of the training stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.serving.export.proof import expect_texts, writes_the_same
from llama_padfix.serving.export.rewrites import REWRITES, pin_arguments

if TYPE_CHECKING:
    from llama_padfix.serving.rendering.chat import Chat


def rewrite_template(chats: Sequence[Chat]) -> tuple[str, list[str]]:
    """Return the template to save, and what was changed in it, a sentence each.

    Args:
        chats: Whole conversations and conversations up to each point, as the training rendered them.

    Raises:
        PadfixError: there is none, or one file cannot hold the arguments of all.
    """
    if not chats:
        raise PadfixError("No conversation renders, so nothing shows that the copy is right. Pass rows of chats.")
    expected = expect_texts(chats)
    first = expected[0].chat
    source, changes = first.source, list[str]()
    arguments = [dict(one.chat.kwargs) for one in expected]
    if all(given == arguments[0] for given in arguments) and all(one.chat.source == source for one in expected):
        pinned = pin_arguments(source, first.kwargs)
        if pinned != source and writes_the_same(pinned, expected):
            source = pinned
            changes.append("the template holds the date and the arguments of the training")
    if not writes_the_same(source, expected):
        raise PadfixError(
            "Rows were trained with different arguments or templates, which one file cannot hold. "
            "Export with an encoder of one kind, or pass the arguments with each request."
        )
    for said, rewrite in REWRITES.items():
        rewritten = rewrite(source)
        if rewritten != source and writes_the_same(rewritten, expected):
            source = rewritten
            changes.append(f"the template: {said}")
    return source, changes
