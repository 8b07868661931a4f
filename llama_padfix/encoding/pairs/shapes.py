"""Rows of preferences of every common shape, read into one row for each answer, as `ChatEncoder` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.trace import count_equal
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.records import short_repr
from llama_padfix.encoding.pairs.ranking import find_ranked, find_tie, rank_answers, read_number
from llama_padfix.encoding.reading.json_values import as_list, seen
from llama_padfix.encoding.reading.side_columns import SIDE_COLUMNS
from llama_padfix.encoding.row_formats import CONVERSATION_COLUMNS, ROLES, read_row

if TYPE_CHECKING:
    from llama_padfix.core.types import MessageDict, Row

PAIR = ("chosen", "rejected")
PROMPTS = ("prompt", "question", "query", "instruction")
"""The columns that hold a prompt, in order of precedence."""

VERDICTS = ("label", "kto_tag")
"""The columns that say whether an answer is a good one (KTO): of TRL and ms-swift, and of LLaMA-Factory."""

_SIDE = SIDE_COLUMNS.difference(PAIR, VERDICTS)
_ALPACA = ("instruction", "input", "history")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of one row: a pair, the good one first, or a single one that is judged (KTO)."""

    rows: tuple[Row, ...]
    """A row for each answer: `prompt` and `completion`, or `text` where the prompt is a part of the text."""
    labels: tuple[bool, ...]
    """Whether each answer is a good one."""
    margin: float = 0.0
    """By how much the first is better, where a column `margin` says so."""
    tie: str = ""
    """The scores of a pair, where they are equal; else ""."""
    read: frozenset[str] = frozenset()
    """The columns that were read."""

    __repr__ = short_repr


def read_answers(row: object, *, judged: bool = False) -> Answers:
    """Read a row of preferences of any known shape without changing it.

    Args:
        row: A mapping of columns.
        judged: Also read a single answer with a verdict (KTO), in the column `label` or `kto_tag`.

    Raises:
        PadfixError: The shape is not known, or it is not certain where the prompt ends.
    """
    if isinstance(row, PadfixError):  # a line of a file that could not be read
        raise row
    if not isinstance(row, Mapping):
        raise PadfixError(
            f'expected a mapping of columns, saw {seen(row)}; write it as {{"prompt": ..., "chosen": ..., '
            '"rejected": ...}'
        )
    # pandas fills what a row lacks with nan.
    row = {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
    columns = {name: value for name, value in row.items() if value is not None}
    if all(name in columns for name in PAIR):
        return _read_pair(row)
    if one := next((name for name in PAIR if name in columns), None):
        other = PAIR[one == "chosen"]
        raise PadfixError(
            f"{other} is {'null' if other in row else 'missing'}, so there is no pair to compare; drop the row: "
            'dataset.filter(lambda row: row["chosen"] is not None and row["rejected"] is not None)'
        )
    if judged and any(name in columns for name in VERDICTS):
        return _read_verdict(columns)
    if ranked := find_ranked(columns):
        answers = rank_answers(columns, ranked)
        prompt = {name: value for name, value in columns.items() if name != "margin"}
        pair = _read_pair({**prompt, "chosen": answers.best, "rejected": answers.worst})
        return Answers(rows=pair.rows, labels=pair.labels, tie=answers.tie, read=pair.read | answers.read)
    empty = next((name for name in VERDICTS if judged and name in row), None)
    if empty is not None:
        raise PadfixError(
            f"{empty} is null, so the answer is not judged. Drop the row: "
            f'dataset.filter(lambda row: row["{empty}"] is not None)'
        )
    found = ", ".join(map(str, row)) or "none"
    kto = ", or prompt + completion + label" if judged else ""
    other = ", which is for task='kto'" if not judged and any(name in columns for name in VERDICTS) else ""
    raise PadfixError(
        f"the columns are {found}{other}; a row of preferences has chosen + rejected, beside prompt or conversations "
        f"or with the prompt inside{kto}, or completions with scores. Rename them with dataset.rename_column"
    )


def _read_pair(row: Row) -> Answers:
    columns = {name: value for name, value in row.items() if value is not None}
    side = {name: columns[name] for name in _SIDE if name in columns}
    chosen, rejected = (_read_answer(name, columns[name]) for name in PAIR)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise PadfixError(
            f"chosen is {seen(columns['chosen'])} and rejected {seen(columns['rejected'])}; write both as texts, or "
            "both as lists of messages"
        )
    names, prompt = _find_prompt(columns, chosen)
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        _require_prompt_inside(row, chosen, rejected)
    if any(isinstance(answer, str) or _begins_with_answer(answer) for answer in (chosen, rejected)):
        pair = _join(prompt, chosen, rejected)
    else:
        pair = _split_conversations(prompt, chosen, rejected, side)
    margin = read_number(columns.get("margin", 0.0))
    if margin is None:
        raise PadfixError(
            f"margin is {describe(columns['margin'])}, no number. Write by how much the chosen answer is better"
        )
    tie, scores = find_tie(columns)
    return Answers(
        rows=tuple({**side, **answer} for answer in pair),
        labels=(True, False),
        margin=margin,
        tie=tie,
        read=frozenset((*PAIR, *names, *side, *scores, "margin")),
    )


def _read_answer(name: str, value: object) -> str | list[Any]:
    """Return an answer as a text, or as messages."""
    if isinstance(value, str):
        return value
    messages = [value] if isinstance(value, Mapping) else as_list(value)
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise PadfixError(f"{name} is {seen(value)}, which is neither a text nor a list of messages; drop the row")
    return messages


def _require_prompt_inside(row: Row, chosen: str, rejected: str) -> None:
    """Raise `PadfixError` unless two texts may hold the prompt that no column holds."""
    empty = next((name for name in (*PROMPTS, *CONVERSATION_COLUMNS) if name in row), None)
    beside = next((name for name in ("system", "tools") if row.get(name)), None)
    if empty is not None:
        why = f"{empty} is null"
    elif beside is not None:
        why = f"{beside} is {describe(row[beside])}, which no text takes up"
    elif chosen and rejected and chosen[0] != rejected[0]:
        why = "they begin with other characters"
    else:
        return
    raise PadfixError(
        f"chosen and rejected are texts, no column holds the prompt before them, and {why}. Drop the row, or name the "
        f"column of the prompt: dataset.rename_column(name, {PROMPTS[0]!r})"
    )


def _find_prompt(columns: Row, answer: str | list[Any]) -> tuple[tuple[str, ...], Any]:  # text, messages, or None
    """Return the columns that hold the prompt, and the prompt; None where it is a part of the answers."""
    if isinstance(columns.get("instruction"), str) and not any(name in columns for name in PROMPTS[:3]):
        names = tuple(name for name in _ALPACA if name in columns)
        messages = read_row({**{name: columns[name] for name in names}, "output": ""}).messages or []
        return names, messages[0]["content"] if len(messages) == 2 else messages[:-1]
    if name := next((name for name in PROMPTS if name in columns), None):
        prompt = columns[name]
        return (name,), [prompt] if isinstance(prompt, Mapping) and {"role", "from"} & set(prompt) else prompt
    held = next((name for name in CONVERSATION_COLUMNS if name in columns), None)
    if held is None or (not isinstance(answer, str) and not _begins_with_answer(answer)):
        return (), None  # `messages` beside whole conversations repeats one of them
    return (held,), columns[held]


def _begins_with_answer(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return True for messages that begin with the model's turn, as an answer without its prompt does."""
    return _role_of(messages[0]) == "assistant"


def _role_of(message: object) -> str:
    role = message.get("role") or message.get("from") if isinstance(message, Mapping) else None
    return ROLES.get(role.lower(), "") if isinstance(role, str) else ""


def _join(prompt: Any, chosen: Any, rejected: Any) -> tuple[Row, Row]:  # texts or messages
    """Return the rows of two answers behind one prompt, or of two texts that hold theirs."""
    if not isinstance(chosen, str) and len({_role_of(chosen[0]), _role_of(rejected[0])} - {""}) > 1:
        raise PadfixError(
            "one of chosen and rejected begins with the model's turn, and the other does not. Write both as answers, "
            "or both as whole conversations"
        )
    if prompt is None:
        if isinstance(chosen, str):
            return {"text": chosen}, {"text": rejected}
        raise PadfixError(
            "chosen and rejected begin with the model's turn, and no column holds the prompt before it. Add a column "
            "prompt, or write the whole conversation into both"
        )
    messages = as_list(prompt)
    if messages and _role_of(messages[-1]) == "assistant":
        raise PadfixError(
            "the prompt ends with a message of the assistant, and the answers are its turns too. End the prompt with "
            "the user's message"
        )
    return {"prompt": prompt, "completion": chosen}, {"prompt": prompt, "completion": rejected}


def _split_conversations(prompt: Any, chosen: Any, rejected: Any, side: Row) -> tuple[Row, Row]:  # lists of messages
    """Return the rows of two whole conversations: the messages that they share are the prompt."""
    read = [_read_conversation(name, value, side) for name, value in zip(PAIR, (chosen, rejected), strict=True)]
    messages = as_list(prompt)
    if messages:
        begin = _read_conversation("prompt", messages, side)
        if not all(_holds(one, begin) for one in read):
            if begin[-1]["role"] == "user":
                raise PadfixError(
                    f"prompt ends with {describe(begin[-1]['content'])}, chosen and rejected are whole conversations, "
                    "and do not hold it: it is not known which one is the prompt. Where they hold all of it: "
                    'dataset.remove_columns("prompt")'
                )
            chosen, rejected = [*messages, *chosen], [*messages, *rejected]
            read = [
                _read_conversation(name, value, side) for name, value in zip(PAIR, (chosen, rejected), strict=True)
            ]
    ours, theirs = read
    end = min(count_equal(ours, theirs), len(ours) - 1, len(theirs) - 1)
    added = len(ours) - len(chosen)  # a system turn of a column
    while end > added and not ours[end]["role"] == theirs[end]["role"] == "assistant":
        end -= 1
    if end <= added:
        raise PadfixError(
            "chosen and rejected share no message before their answers, so they do not answer the same prompt; "
            "drop the row"
        )
    if isinstance(prompt, str) and prompt not in [message["content"] for message in ours[:end]]:
        raise PadfixError(
            f"prompt is {describe(prompt)}, and chosen begins with {describe(ours[added]['content'])}: it is not "
            'known which one is the prompt. Where the messages hold all of it: dataset.remove_columns("prompt")'
        )
    end -= added
    first, second = ({"prompt": whole[:end], "completion": whole[end:]} for whole in (chosen, rejected))
    return first, second


def _holds(messages: list[MessageDict], part: list[MessageDict]) -> bool:
    """Return True where a conversation holds these messages, one behind the other."""
    return any(messages[at : at + len(part)] == part for at in range(len(messages)))


def _read_conversation(name: str, messages: list[Any], side: Row) -> list[MessageDict]:
    try:
        return read_row({**side, "messages": messages}).messages or []
    except PadfixError as error:
        raise PadfixError(str(error).replace("messages[", f"{name}[")) from None


def _read_verdict(columns: Row) -> Answers:
    """Read a single answer that is judged: a prompt with a completion, or a conversation that ends with the answer."""
    name = next(name for name in VERDICTS if name in columns)
    value: Any = columns[name]
    verdict = value.tolist() if hasattr(value, "tolist") else value  # a number of numpy
    if verdict not in (0, 1) or isinstance(verdict, str):
        raise PadfixError(
            f"{name} is {describe(value)}, neither true nor false. Write true for a good "
            f'answer: dataset.map(lambda row: {{"{name}": row["{name}"] == "good"}})'
        )
    side = {column: columns[column] for column in _SIDE if column in columns}
    answer = next((column for column in ("completion", "output") if column in columns), None)
    held = next((column for column in CONVERSATION_COLUMNS if column in columns), None)
    if answer is not None:
        completion = _read_answer(answer, columns[answer])
        names, prompt = _find_prompt(columns, completion)
        row = _join(prompt, completion, completion)[0]
        if "text" in row:
            raise PadfixError(f"{answer} is there and no prompt before it. Add a column prompt")
        names = (*names, answer)
    elif held is not None:
        whole = _read_answer(held, columns[held])
        end = len(whole)
        while end and not isinstance(whole, str) and _role_of(whole[end - 1]) == "assistant":
            end -= 1
        if isinstance(whole, str) or not 0 < end < len(whole):
            raise PadfixError(
                f"{held} does not end with an answer to a prompt, so there is none to judge; drop the row"
            )
        row, names = {"prompt": whole[:end], "completion": whole[end:]}, (held,)
    else:
        raise PadfixError(
            f"the columns are {', '.join(map(str, columns))}: {name} judges an answer, and none is there. Name it "
            'completion: dataset.rename_column(name, "completion")'
        )
    return Answers(rows=({**side, **row},), labels=(bool(verdict),), read=frozenset((*names, *side, name)))
