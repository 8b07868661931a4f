"""For every template that TRL ships: a forged turn stays text wherever it stands; each row is encoded for itself."""

from __future__ import annotations

import copy
import functools
import random
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.conversations import _TOOLS, trained_runs
from tests.support.families import PARTS_ONLY, family_tokenizer, make_nasty, originals
from tests.support.versions import template_ids

TEMPLATES = pytest.mark.parametrize("path", originals(), ids=lambda path: str(path.stem))
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}


def tags_of(path: Path) -> set[str]:
    return {str(token) for token in family_tokenizer(path).added_tokens_decoder.values() if not token.special}


def say(path: Path, role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}] if path.stem in PARTS_ONLY else text}


def question(path: Path, word: str) -> dict[str, Any]:
    talk = [("user", f"Ask {word}"), ("assistant", "Two words"), ("user", "More"), ("assistant", "Last ones")]
    return {"messages": [say(path, role, text) for role, text in talk]}


def system(path: Path, word: str) -> dict[str, Any]:
    return {"messages": [say(path, "system", f"Be {word}"), *question(path, "this")["messages"]]}


def tool_use(path: Path, word: str) -> dict[str, Any]:
    """A row that spells the word in a schema, in a call's arguments, and in a result."""
    call, tools = copy.deepcopy(CALL), copy.deepcopy(_TOOLS)
    call["function"]["arguments"] = {"city": word, word: "x"}  # type: ignore[index]
    tools[0]["function"]["description"] = tools[0]["function"]["parameters"]["properties"]["city"]["title"] = word  # type: ignore[index]
    result = {"role": "tool", "content": f"It is {word}", "name": "get_weather", "tool_call_id": "abcdefghi"}
    first, *others = question(path, "this")["messages"]
    return {"messages": [first, {"role": "assistant", "content": "", "tool_calls": [call]}, result, *others[:1]]} | {
        "tools": tools
    }


def tool_name(path: Path, word: str) -> dict[str, Any]:
    row = tool_use(path, "fine")
    for part in (row["messages"][1]["tool_calls"][0]["function"], row["messages"][2], row["tools"][0]["function"]):
        part["name"] = f"look{word}"
    return row


@functools.cache
def own_turn(path: Path) -> str:
    """The template's own assistant turn, all that it writes behind a question."""
    text = family_tokenizer(path).apply_chat_template(question(path, "this")["messages"][:2], tokenize=False)
    return str(text.partition("Ask this")[2].strip())


def encode(path: Path, row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The text and the encoded row; None where the template raises or leaves out what the row says."""
    tokenizer = family_tokenizer(path)
    try:
        text = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
    except Exception:
        return None
    talk = [message for message in row["messages"] if message["role"] != "tool"]
    calls = [call["function"]["name"][:4] for message in talk for call in message.get("tool_calls", ())]
    if calls and calls[0] not in tokenizer.apply_chat_template(talk, tokenize=False):
        return None  # the call is left out
    encoder = ChatEncoder(tokenizer)
    made = encoder(row)
    assert encoder.counts.escaped == ("Bye" in text)
    return text, made


@pytest.mark.parametrize("make", [question, system, tool_use, tool_name], ids=lambda make: make.__name__)
@TEMPLATES
def test_a_turn_forged_anywhere_stays_text_and_trains_nothing(path: Path, make: Any) -> None:
    tokenizer = family_tokenizer(path)
    specials = set(tokenizer.added_tokens_decoder)  # `<tool_call>` and `<think>` as well, which are ordinary ones
    honest, forged = encode(path, make(path, "please")), encode(path, make(path, f"{own_turn(path)}Bye"))
    assert (honest is None) == (forged is None)
    if honest is None or forged is None:
        assert make is not question, "every template answers a question"
        pytest.skip("the template has no place for it")
    text, made = forged
    assert tokenizer.decode(made["input_ids"], clean_up_tokenization_spaces=False) == text
    assert make is not question or f"Ask {own_turn(path)}Bye" in text
    kinds = [[token for token in one[1]["input_ids"] if token in specials] for one in (honest, forged)]
    assert kinds[0] == kinds[1]
    runs, forged_runs = trained_runs(honest[1]["labels"]), trained_runs(made["labels"])
    assert len(runs) == len(forged_runs)
    for run, forged_run in zip(runs, forged_runs, strict=True):
        # What a call's arguments spell is trained, as text; all other turns are the same to the token.
        if make in (question, system) or "Bye" not in tokenizer.decode(forged_run):
            assert run == forged_run
        else:
            assert [token for token in run if token in specials] == [t for t in forged_run if t in specials]


@TEMPLATES
def test_what_a_row_becomes_does_not_depend_on_the_rows_beside_it(path: Path) -> None:
    tokenizer = family_tokenizer(path)
    rows = [make_nasty(random.Random(seed), path.stem) for seed in range(6)]
    rows.append(question(path, f"{own_turn(path)}Bye"))
    alone = [ChatEncoder(tokenizer, on_error="drop").encode_rows([row])[0] for row in rows]
    expected = {name: [one for made in alone for one in made[name]] for name in ("input_ids", "labels")}
    assert len(expected["labels"]) > 1
    encoder = ChatEncoder(tokenizer, on_error="drop")  # and what it learned from earlier rows changes nothing
    for size in (len(rows), 4):
        parts = [encoder.encode_rows(rows[start : start + size])[0] for start in range(0, len(rows), size)]
        assert {name: [one for part in parts for one in part[name]] for name in expected} == expected
    backwards, _ = encoder.encode_rows(rows[::-1])
    assert {name: column[::-1] for name, column in backwards.items()} == expected


# Tags: added tokens that the tokenizer does not call special, and that only an assistant may say

TAGGED = [path for path in originals() if path.stem not in PARTS_ONLY and tags_of(path)]


@pytest.mark.parametrize("path", TAGGED, ids=lambda path: str(path.stem))
def test_tags_are_tokens_in_an_answer_and_text_in_a_question_and_in_a_call(path: Path) -> None:
    tokenizer, tags = family_tokenizer(path), tags_of(path)
    word = "".join(sorted(tags)) + "Bye"
    row = tool_use(path, "fine")
    row["messages"][0]["content"] = f"Ask {word}"
    row["messages"][3:] = []
    row["messages"].append({"role": "assistant", "content": "Two words"})
    if encode(path, row) is None:  # no place for tools
        row = {"messages": row["messages"][::3]}
    made = encode(path, row)
    assert made is not None and tokenizer.decode(made[1]["input_ids"], clean_up_tokenization_spaces=False) == made[0]
    honest = copy.deepcopy(row)
    honest["messages"][0]["content"] = "Ask please"
    before = encode(path, honest)
    assert before is not None
    for tag in tags:
        tag_id = tokenizer.convert_tokens_to_ids(tag)
        assert made[1]["input_ids"].count(tag_id) == before[1]["input_ids"].count(tag_id), tag
    # The template's own and the assistant's are tokens, as in apply_chat_template.
    talk = [{"role": "user", "content": "Ask this"}, {"role": "assistant", "content": f"{min(tags)} said"}]
    encoder = ChatEncoder(tokenizer)
    assert encoder(talk)["input_ids"] == template_ids(tokenizer, talk) and encoder.counts.escaped == 0


# Rows that are cut: a message of several spans is kept whole or not at all

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Good"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Hm", "reasoning_content": "I think", "tool_calls": [CALL]},
    {"role": "tool", "content": "Rain", "name": "get_weather", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "Fine"},
]


@pytest.mark.parametrize(
    ("stem", "runs", "ends"),
    [
        ("gemma4", 4, ["Good<turn|>", "<tool_response|>Hm<turn|>", "Fine<turn|>"]),
        ("gemma4_v5", 3, ["Good<turn|>", "HmFine<turn|>"]),  # here the answer goes on in the same turn
        ("qwen3", 3, ["Good<|im_end|>", "</tool_call><|im_end|>", "Fine<|im_end|>"]),
    ],
)
def test_a_row_is_cut_behind_the_last_span_of_a_message(stem: str, runs: int, ends: list[str]) -> None:
    tokenizer = family_tokenizer(next(path for path in originals() if path.stem == stem))
    whole = ChatEncoder(tokenizer)({"messages": TALK})
    assert len(trained_runs(whole["labels"])) == runs
    seen: list[str] = []
    encoder = ChatEncoder(tokenizer)
    for max_length in range(2, len(whole["input_ids"]) + 1):
        encoder.max_length = max_length
        columns, counts = encoder.encode_rows([{"messages": TALK}])
        if not counts.kept:
            assert not seen and counts.dropped_too_long
            continue
        [ids], [labels] = columns["input_ids"], columns["labels"]
        assert len(ids) <= max_length
        assert (ids, labels) == (whole["input_ids"][: len(ids)], whole["labels"][: len(ids)])
        text = tokenizer.decode(ids).rstrip()
        if not seen or seen[-1] != text:
            seen.append(text)
    assert [text.endswith(end) for text, end in zip(seen, ends, strict=True)] == [True] * len(ends), seen
