"""Held-back rows as prompts: the ids in front of the last answer, and whether an end is trained behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError, describe
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.record import read_encoding
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.encoding.sources import is_conversation, is_encoded_row

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.encoding.record import Encoding

_ANSWER = "Yes."  # stands for the answer of a prompt that has none


@dataclass(frozen=True)
class StopPrompt:
    """One prompt as ids."""

    number: int
    """Its number among the prompts that were given, from 0."""

    input_ids: tuple[int, ...]
    """What generation begins from, with the generation prompt."""

    last_trained: int | None
    """The last id that is trained in the answer behind it; None without labels."""

    encoded: bool
    """Whether the row came with its labels."""


def find_record(rows: Any) -> Encoding | None:  # rows of any kind
    """Return how a dataset was encoded; None for rows that keep no record of it."""
    with suppress(PadfixError):
        return read_encoding(rows)
    return None


def require_prompts(prompts: object) -> Iterable[object]:
    """Return prompts.

    Raises:
        PadfixError: These are none, or one that does not stand in a list.
    """
    if isinstance(prompts, str) or (isinstance(prompts, list) and is_conversation(prompts)):
        raise PadfixError(
            "This is one prompt, and several are read. Pass a list: check_stops(model, tokenizer, [prompt])"
        )
    if not isinstance(prompts, Iterable) or isinstance(prompts, (Mapping, bytes)):
        raise PadfixError(
            f"Got a {type(prompts).__name__} where prompts are needed. Pass a list of texts, of messages or of rows: "
            'check_stops(model, tokenizer, dataset["test"])'
        )
    return prompts


def make_prompts(
    tokenizer: TokenizerLike, rows: Iterable[object], encoding: Encoding | None
) -> tuple[list[StopPrompt], dict[int, str]]:
    """Return the prompts of rows, and by number why a row gave none.

    Args:
        tokenizer: The tokenizer, which is not changed.
        rows: Encoded rows, rows of any shape that is read, lists of messages, or texts, each a user's question. A row
            without an answer gets one, so that it is encoded as the rows of a run are; the answer is then cut off.
        encoding: How the run's rows were encoded; None for the defaults of `ChatEncoder`.
    """
    given: dict[str, Any] = {} if encoding is None else encoding.arguments()
    encoder = ChatEncoder(tokenizer, **given | {"max_length": None, "on_error": "raise"})
    prompts, skipped = list[StopPrompt](), dict[int, str]()
    for number, row in enumerate(rows):
        try:
            prompts.append(_make_prompt(encoder, row, number))
        except PadfixError as error:
            skipped[number] = str(error)
    return prompts, skipped


def _make_prompt(encoder: ChatEncoder, row: object, number: int) -> StopPrompt:
    if is_encoded_row(row):
        labels = row.get("labels")
        if labels is None:
            return StopPrompt(number, _ids_of(row["input_ids"]), None, encoded=False)
        return _cut_answer(number, _ids_of(row["input_ids"]), _ids_of(labels), encoded=True)
    encoded = encoder(_add_answer(row, has_template=bool(encoder.tokenizer.chat_template)))
    return _cut_answer(number, encoded["input_ids"], encoded["labels"], encoded=False)


def _ids_of(column: Any) -> tuple[int, ...]:  # a list, an array or a tensor
    return tuple(int(token_id) for token_id in column)


def _cut_answer(number: int, ids: Sequence[int], labels: Sequence[int], *, encoded: bool) -> StopPrompt:
    """Return the ids in front of the last trained run, and the last id of that run."""
    end = next((at + 1 for at in range(len(labels) - 1, -1, -1) if labels[at] != IGNORE_INDEX), 0)
    start = next((at + 1 for at in range(end - 1, -1, -1) if labels[at] == IGNORE_INDEX), 0)
    if start < 2:
        raise PadfixError("nothing stands in front of what is trained. Pass a row with a question, or a prompt")
    return StopPrompt(number, tuple(ids[:start]), int(labels[end - 1]), encoded)


def _add_answer(row: object, *, has_template: bool) -> object:
    """Return the row, with an answer where it ends with a message of another role than the model's."""
    answer = {"role": "assistant", "content": _ANSWER}
    if isinstance(row, str):
        return {"messages": [{"role": "user", "content": row}, answer]} if has_template else _complete(row)
    if not isinstance(row, Mapping) and not isinstance(row, (list, tuple)):
        raise PadfixError(f"{describe(row)} is no prompt. Pass a text, a list of messages, or a row")
    if isinstance(row, Mapping) and row.get("prompt") is not None and row.get("completion") is None:
        prompt = row["prompt"]
        return {**row, "completion": _ANSWER if isinstance(prompt, str) else [answer]}
    found = read_row(row)
    if found.messages is None or found.messages[-1]["role"] == "assistant":
        return row
    return {
        "messages": [*found.messages, answer],
        "tools": found.tools,
        "chat_template_kwargs": dict(found.template_kwargs) or None,
    }


def _complete(text: str) -> dict[str, str]:
    return {"prompt": text, "completion": _ANSWER}
