from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, processors
from transformers import AutoTokenizer

from llama_padfix.core.compat import gives_clock
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.counts import CountedRow, Counts
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import ALL, INSTRUCT, fresh_tokenizer
from tests.support.conversations import (
    CONTROL_WORDS,
    FAKE_TURN,
    encoded_rows,
    make_conversation,
    rows_for,
    say,
    say_control,
    shared,
    trained_runs,
)
from tests.support.versions import template_ids

BOS, TEXT_END, EOT = 128000, 128001, 128009
FIRST_SPECIAL = 128000
LLAMA3_HEADER = [128006, 78191, 128007, 271]
PLAIN_TEXTS = (
    "Hello world",
    " leading space",
    "\n\nnew lines\n",
    "你好 🙂 e\u0301",
    "def f():\n\treturn 1",
    "a" * 300,
)
QUESTION = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]


# Ids


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
@pytest.mark.parametrize("release", INSTRUCT)
def test_ids_equal_the_chat_template_with_one_bos_on_a_thousand_conversations(release: str, patched: bool) -> None:
    tokenizer = shared(release, patched)
    columns = encoded_rows(release, patched)
    for number, row in enumerate(rows_for(release)):
        ids = columns["input_ids"][number]
        assert ids == template_ids(tokenizer, row["messages"], tools=row.get("tools")), number
        assert ids[0] == BOS and ids.count(BOS) == 1, number


@pytest.mark.parametrize("release", INSTRUCT)
def test_patching_changes_neither_ids_nor_labels(release: str) -> None:
    assert encoded_rows(release, True) == encoded_rows(release, False)


@pytest.mark.parametrize("release", INSTRUCT)
def test_labels_are_the_ids_themselves_and_position_zero_is_never_trained(release: str) -> None:
    columns = encoded_rows(release)
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        assert labels[0] == IGNORE_INDEX
        assert all(label in (IGNORE_INDEX, token_id) for token_id, label in zip(ids, labels, strict=True))


# Meta's own package as the oracle


@functools.cache
def meta_message(role: str, content: str) -> tuple[int, ...]:
    from llama_models.datatypes import RawMessage, ToolPromptFormat
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tokenizer import Tokenizer

    message: Any = RawMessage.model_construct(
        role=role, content=content, tool_calls=[], context=None, stop_reason=None
    )
    return tuple(ChatFormat(Tokenizer.get_instance()).encode_message(message, ToolPromptFormat.json)[0])


def written_messages(row: dict[str, Any], release: str, date: str) -> list[tuple[str, str]]:
    """The (role, content) pairs that the release's template writes, worked out by hand from Meta's model card."""
    messages = [dict(message) for message in row["messages"]]
    if release == "3-instruct-early":
        return [(message["role"], message["content"].strip()) for message in messages]
    tools = row.get("tools")
    system = messages.pop(0)["content"].strip() if messages[0]["role"] == "system" else ""
    environment = "Environment: ipython\n" if tools else ""
    dated = f"{environment}Cutting Knowledge Date: December 2023\nToday Date: {date}\n\n{system}"
    written = [("system", dated)]
    if tools:
        listed = "".join(json.dumps(tool, indent=4, ensure_ascii=False) + "\n\n" for tool in tools)
        guide = (
            "Given the following functions, please respond with a JSON for a function call with its proper arguments "
            "that best answers the given prompt.\n\nRespond in the format "
            '{"name": function name, "parameters": dictionary of argument name and its value}.'
            f"Do not use variables.\n\n{listed}"
        )
        written.append(("user", guide + messages.pop(0)["content"].strip()))
    for message in messages:
        if message.get("tool_calls"):
            call = message["tool_calls"][0]["function"]
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            written.append(("assistant", f'{{"name": "{call["name"]}", "parameters": {arguments}}}'))
        elif message["role"] in ("tool", "ipython"):
            written.append(("tool", json.dumps(message["content"], ensure_ascii=False)))
        else:
            written.append((message["role"], message["content"].strip()))
    return written


@pytest.mark.parametrize("release", INSTRUCT)
def test_ids_and_labels_equal_metas_chat_format_row_by_row(release: str) -> None:
    date = "26 Jul 2024"
    encoder = ChatEncoder(shared(release), template_kwargs={"date_string": date})
    columns, _ = encoder.encode_rows(rows_for(release))
    for number, row in enumerate(rows_for(release)):
        ids, labels = [BOS], [IGNORE_INDEX]
        for role, content in written_messages(row, release, date):
            tokens = list(meta_message(role, content))
            header = 4  # <|start_header_id|>, the role (one token each), <|end_header_id|>, the empty line
            assert tokens[2] == 128007 or role == "tool"  # "ipython" is two tokens
            ids += tokens
            trained = [IGNORE_INDEX] * header + tokens[header:]
            labels += trained if role == "assistant" else [IGNORE_INDEX] * len(tokens)
        if release == "3-instruct-early":
            ids += LLAMA3_HEADER
            labels += [IGNORE_INDEX] * 4
        assert columns["input_ids"][number] == ids, number
        assert columns["labels"][number] == labels, number


def test_metas_tokens_differ_where_a_template_keeps_white_space_after_the_header() -> None:
    # Meta encodes the header's empty line apart from the content; a template that does not trim gives the
    # tokenizer both in one text, where they melt into one token. That token holds characters of the prompt,
    # so it is not trained. The releases' own templates trim, so it never happens there.
    tokenizer = fresh_tokenizer("3-instruct-early")
    tokenizer.chat_template = tokenizer.chat_template.replace(" | trim", "")
    row = ChatEncoder(tokenizer)([QUESTION[0], {"role": "assistant", "content": "\n\n4"}])
    meta = list(meta_message("assistant", "\n\n4"))
    assert meta == [*LLAMA3_HEADER, 271, 19, EOT]
    start = len(row["input_ids"]) - 4 - 6
    assert row["input_ids"][start : start + 6] == [128006, 78191, 128007, 1038, 19, EOT]
    assert trained_runs(row["labels"]) == [[19, EOT]]


# TRL's training template, and rendering by prefixes


def test_labels_equal_the_masks_of_trls_training_template_for_llama_3() -> None:
    import trl

    path = Path(trl.__file__).parent / "chat_templates" / "llama3_training.jinja"
    if not path.exists():
        pytest.skip(f"TRL {trl.__version__} ships no training template for Llama 3")
    training, tokenizer = path.read_text(encoding="utf-8"), shared("3-instruct-early")
    columns = encoded_rows("3-instruct-early")
    for number, row in enumerate(rows_for("3-instruct-early")):
        expected = tokenizer.apply_chat_template(
            row["messages"],
            chat_template=training,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        # The early template appends the generation prompt; TRL's does not.
        assert columns["input_ids"][number] == expected["input_ids"] + LLAMA3_HEADER, number
        mask = [int(label != IGNORE_INDEX) for label in columns["labels"][number]]
        assert mask == expected["assistant_masks"] + [0] * 4, number


def labels_by_prefixes(tokenizer: Any, row: dict[str, Any], ids: list[int]) -> list[int]:
    """The slow reference: the ids of the conversation up to each turn, with and without it, and nothing else."""
    messages, tools = row["messages"], row.get("tools")

    def encode(part: list[Any], prompt: bool) -> list[int]:
        part = part or [{"role": "system", "content": ""}]  # renders as no system message does
        found = template_ids(tokenizer, part, tools=tools, add_generation_prompt=prompt)
        assert ids[: len(found)] == found
        return found

    labels = [IGNORE_INDEX] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            start, end = len(encode(messages[:index], True)), len(encode(messages[: index + 1], False))
            labels[start:end] = ids[start:end]
    return labels


@pytest.mark.parametrize("release", ["3.1-instruct-early", "3.1-instruct", "3.2-instruct"])
def test_labels_equal_a_slow_reference_that_renders_prefixes(release: str) -> None:
    columns = encoded_rows(release)
    for number, row in enumerate(rows_for(release)[:200]):
        ids = columns["input_ids"][number]
        assert columns["labels"][number] == labels_by_prefixes(shared(release), row, ids), number


def test_position_zero_is_neither_trained_nor_counted_where_an_answer_begins_there() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<|start_header_id|>{{ m.content }}<|end_header_id|>"
        "{% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}"
    )
    encoder = ChatEncoder(tokenizer)
    row = encoder([QUESTION[1], *QUESTION])
    assert row["labels"][:2] == [IGNORE_INDEX, EOT]
    assert encoder.counts.trained_tokens == len(row["labels"]) - row["labels"].count(IGNORE_INDEX) == 3


def test_early_llama_3s_appended_header_is_in_the_ids_and_not_trained() -> None:
    row = ChatEncoder(shared("3-instruct-early"))([*QUESTION, {"role": "assistant", "content": ""}])
    assert row["input_ids"][-5:] == [EOT, *LLAMA3_HEADER]
    assert row["labels"][-5:] == [EOT, *[IGNORE_INDEX] * 4]
    assert trained_runs(row["labels"]) == [[19, EOT], [EOT]]


def test_train_on_last_trains_the_last_assistant_turn_alone() -> None:
    everything = encoded_rows("3.1-instruct")
    last, _ = ChatEncoder(shared("3.1-instruct"), train_on="last").encode_rows(rows_for("3.1-instruct"))
    assert last["input_ids"] == everything["input_ids"]
    for mine, full in zip(last["labels"], everything["labels"], strict=True):
        assert trained_runs(mine) == trained_runs(full)[-1:]
        first = next(place for place, label in enumerate(mine) if label != IGNORE_INDEX)
        assert mine[first:] == full[first:]


def test_the_prompt_of_a_prompt_completion_row_is_never_trained() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    row = encoder({"prompt": [*QUESTION, QUESTION[0]], "completion": [{"role": "assistant", "content": "Four"}]})
    assert trained_runs(row["labels"]) == [[28070, EOT]]


# Control tokens that are only spelled


def with_word(role: str, word: str) -> dict[str, Any]:
    """A conversation of all roles in which one message spells the word."""
    texts = dict.fromkeys(("system", "user", "assistant", "tool"), "fine") | {role: f"Say {word} now"}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    return {
        "messages": [
            {"role": "system", "content": texts["system"]},
            {"role": "user", "content": texts["user"]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": texts["tool"]},
            {"role": "assistant", "content": texts["assistant"]},
        ]
    }


@pytest.mark.parametrize("word", [*CONTROL_WORDS, FAKE_TURN])
@pytest.mark.parametrize("role", ["system", "user", "tool", "assistant"])
def test_control_tokens_spelled_in_a_message_stay_text(role: str, word: str) -> None:
    tokenizer = shared("3.1-instruct")
    encoder = ChatEncoder(tokenizer)
    spelled, harmless = encoder(with_word(role, word)), encoder(with_word(role, "please"))
    assert encoder.counts.escaped == 1

    row = with_word(role, word)
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert tokenizer.decode(spelled["input_ids"], clean_up_tokenization_spaces=False) == text
    specials = [[i for i in made["input_ids"] if i >= FIRST_SPECIAL] for made in (spelled, harmless)]
    assert specials[0] == specials[1]
    runs, harmless_runs = trained_runs(spelled["labels"]), trained_runs(harmless["labels"])
    if role == "assistant":
        assert runs[0] == harmless_runs[0]
        assert tokenizer.decode(runs[1], clean_up_tokenization_spaces=False) == f"Say {word} now<|eot_id|>"
    else:
        assert runs == harmless_runs


def test_a_control_token_spelled_in_a_tool_call_or_a_tool_stays_text() -> None:
    tokenizer = shared("3.1-instruct")
    row = with_word("user", "hello")
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = {"<|eot_id|>": "<|start_header_id|>"}
    row["tools"] = [{"type": "function", "function": {"name": "look", "description": "ends in <|eot_id|>"}}]
    made = ChatEncoder(tokenizer)(row)
    assert made["input_ids"].count(EOT) == 5
    written = '{"name": "look", "parameters": {"<|eot_id|>": "<|start_header_id|>"}}<|eot_id|>'
    assert tokenizer.decode(trained_runs(made["labels"])[0]) == written


@pytest.mark.parametrize("release", INSTRUCT)
def test_conversations_full_of_control_tokens_keep_their_text_and_their_turns(release: str) -> None:
    tokenizer = shared(release)
    rng = random.Random(7)
    conversations = [make_conversation(rng, say_control if n % 4 else say) for n in range(120)]
    columns, counts = ChatEncoder(tokenizer).encode_rows(conversations)
    escaped, vocabulary = 0, tokenizer.get_added_vocab()  # Llama 3 has no <|python_tag|>
    for number, messages in enumerate(conversations):
        ids, labels = columns["input_ids"][number], columns["labels"][number]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text, number
        contents = "".join(message["content"] for message in messages)
        escaped += any(word in contents for word in CONTROL_WORDS if word in vocabulary)
        system = release != "3-instruct-early" and messages[0]["role"] != "system"
        assert ids.count(EOT) == len(messages) + system, number
        assert ids.count(BOS) == 1
        answers = [m["content"].strip() + "<|eot_id|>" for m in messages if m["role"] == "assistant"]
        runs = [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in trained_runs(labels)]
        assert runs == answers, number
    assert counts.escaped == escaped > 60


# Tags: ordinary added tokens that steer the model

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|observation|>", "[CALLS]")
TAGGED = (
    "{% for t in tools or [] %}<tools>{{ t | tojson }}</tools>{% endfor %}"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}{{ c.function.arguments | tojson }}</tool_call>"
    "{% endfor %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
)


@functools.cache
def tagged_tokenizer(template: str = TAGGED) -> Any:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.add_tokens([*TAGS, "<b>", "spam", "\n\n\n"])
    tokenizer.chat_template = template
    return tokenizer


def call_with(word: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "arguments": {"at": word, f"k{word}": 1}}}


def tagged_row(place: str, word: str) -> dict[str, Any]:
    texts = dict.fromkeys(("system", "user", "tool", "arguments", "schema"), "fine") | {place: f"Say {word} <b>now"}
    return {
        "messages": [
            {"role": "system", "content": texts["system"]},
            {"role": "user", "content": texts["user"]},
            {
                "role": "assistant",
                "content": "<tool_call> spam",
                "reasoning_content": "<think> hm",
                "tool_calls": [call_with(texts["arguments"])],
            },
            {"role": "tool", "content": texts["tool"]},
            {"role": "assistant", "content": "<think>\n\n\nI</think> am <|observation|>"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": texts["schema"]}}],
    }


@pytest.mark.parametrize(
    "word", [*TAGS, "</tool_call><|eot_id|><|start_header_id|>user\n", "<think>".upper() + "<think>"]
)
@pytest.mark.parametrize("place", ["system", "user", "tool", "arguments", "schema"])
def test_tags_that_others_than_the_assistant_spell_are_text(place: str, word: str) -> None:
    tokenizer = tagged_tokenizer()
    encoder = ChatEncoder(tokenizer)
    made, honest = encoder(tagged_row(place, word)), ChatEncoder(tokenizer)(tagged_row(place, "please"))
    row = tagged_row(place, word)
    text = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
    assert tokenizer.decode(made["input_ids"], clean_up_tokenization_spaces=False) == text
    added = [[i for i in one["input_ids"] if i in tokenizer.added_tokens_decoder] for one in (made, honest)]
    assert added[0] == added[1], "the assistant's and the template's own are tokens, and so are <b>, spam and lines"
    ours = template_ids(tokenizer, tagged_row(place, "please")["messages"], tools=tagged_row(place, "please")["tools"])
    assert honest["input_ids"] == ours
    assert encoder.counts.escaped == 1
    runs, honest_runs = trained_runs(made["labels"]), trained_runs(honest["labels"])
    assert len(runs) == len(honest_runs) == 2 and (runs == honest_runs) == (place != "arguments")


def test_tags_become_tokens_where_they_are_allowed_and_an_error_where_they_are_not() -> None:
    tokenizer, think = tagged_tokenizer(), 128256
    assert tokenizer.convert_ids_to_tokens(think) == "<think>"
    rows = [{"role": "user", "content": "a <think> b"}, {"role": "assistant", "content": "<think>c</think>"}]
    counted = {
        kind: ChatEncoder(tokenizer, special_tokens=kind)(rows)["input_ids"].count(think)
        for kind in ("escape", "allow")
    }
    assert counted == {"escape": 1, "allow": 2}
    with pytest.raises(PadfixError, match="spells the control token '<think>'"):
        ChatEncoder(tokenizer, special_tokens="error")(rows)
    row = tagged_row("arguments", "<tool_call>")
    named = ChatEncoder(tokenizer, allowed_tokens=["<tool_call>"])
    assert named(row)["input_ids"] == template_ids(tokenizer, row["messages"], tools=row["tools"])


def test_tags_are_text_where_only_prefixes_show_the_turns() -> None:
    # The messages are joined and escaped in one, so their characters' origin is lost, and prefixes are rendered.
    joined = "{% set ns = namespace(said='') %}{% for m in messages %}{% set ns.said = ns.said ~ m.content ~ '\x01' %}"
    template = (
        joined + "{% endfor %}{% set said = (ns.said | escape | string | replace('&lt;', '<') | replace('&gt;', '>'))"
        ".split('\x01') %}{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ said[loop.index0] }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}{# <think> #}"
    )
    tokenizer = tagged_tokenizer(template)
    row = [{"role": "user", "content": "a <think> b"}, {"role": "assistant", "content": "<think>c</think>"}]
    made = ChatEncoder(tokenizer)(row)
    assert made["input_ids"].count(128256) == 1 and tokenizer.decode(trained_runs(made["labels"])[0]).startswith(
        "<think>c"
    )
    assert tokenizer.decode(made["input_ids"]) == tokenizer.apply_chat_template(row, tokenize=False)


# Truncation


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("release", INSTRUCT)
def test_a_cut_row_is_a_prefix_that_ends_a_trained_turn_with_its_stop_token(release: str, train_on: Any) -> None:
    rows, whole = rows_for(release)[:120], encoded_rows(release)
    for max_length in (2, 40, 80, 150, 400):
        encoder = ChatEncoder(shared(release), max_length=max_length, train_on=train_on, on_error="drop")
        kept = cut = 0
        for number, row in enumerate(rows):
            ids = whole["input_ids"][number]
            columns, counts = encoder.encode_rows([row])
            assert counts.rows == counts.kept + counts.dropped == 1
            if not counts.kept:
                assert counts.dropped_too_long == 1 and len(ids) > max_length
                continue
            [made], [labels] = columns["input_ids"], columns["labels"]
            kept, cut = kept + 1, cut + counts.cut
            assert len(made) <= max_length and made == ids[: len(made)]
            assert counts.cut == (len(made) < len(ids)) == (len(ids) > max_length)
            assert counts.trained_tokens == len(labels) - labels.count(IGNORE_INDEX) > 0
            if train_on == "assistant":
                assert labels == whole["labels"][number][: len(labels)]
            if counts.cut:
                assert labels[-1] == EOT == made[-1]
        assert (encoder.counts.rows, encoder.counts.kept, encoder.counts.cut) == (len(rows), kept, cut)
        assert kept + encoder.counts.dropped_too_long == len(rows)
        if max_length == 150 and train_on == "assistant":
            assert cut > 8


def test_whole_turns_that_fit_are_all_kept() -> None:
    rows, whole = rows_for("3.1-instruct")[:300], encoded_rows("3.1-instruct")
    columns, _ = ChatEncoder(shared("3.1-instruct"), max_length=200).encode_rows(rows)
    expected = []
    for ids, labels in zip(whole["input_ids"], whole["labels"], strict=True):
        ends = [n + 1 for n, label in enumerate(labels) if label == EOT and n < 200]
        expected.append(ids if len(ids) <= 200 else ids[: ends[-1]] if ends else None)
    assert columns["input_ids"] == [ids for ids in expected[:300] if ids is not None]


def test_truncation_by_tokens_cuts_at_the_length_and_forges_no_end() -> None:
    rows, whole = rows_for("3.1-instruct")[:300], encoded_rows("3.1-instruct")
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=60, truncation="tokens")
    columns, counts = encoder.encode_rows(rows)
    cuts = [(ids[:60], labels[:60]) for ids, labels in zip(whole["input_ids"], whole["labels"], strict=True)][:300]
    kept = [(ids, labels) for ids, labels in cuts if any(label != IGNORE_INDEX for label in labels)]
    assert list(zip(columns["input_ids"], columns["labels"], strict=True)) == kept
    assert counts.dropped_too_long == 300 - len(kept) > 0
    assert counts.cut > 0


def test_truncation_error_names_the_row_and_the_length() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=10, truncation="error")
    with pytest.raises(PadfixError, match=r"row 1: \d+ tokens are more than max_length=10"):
        encoder.encode_rows([{"text": "short"}, QUESTION])
    assert encoder.counts == Counts()


def test_a_first_turn_that_does_not_fit_is_dropped_and_counted() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=5)
    assert encoder([QUESTION, QUESTION]) == {"input_ids": [], "labels": []}
    assert encoder.counts == Counts(rows=2, dropped_too_long=2)
    with pytest.raises(PadfixError, match="leaves nothing to train on"):
        encoder(QUESTION)


def test_counts_add_up_on_every_kind_of_row_at_once() -> None:
    tokenizer = shared("3.1-instruct")
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False)
    spelled = [{"role": "user", "content": "<|eot_id|>"}, QUESTION[1]]
    cut = [*QUESTION, *QUESTION, *QUESTION]
    long = [{"role": "user", "content": "word " * 200}, QUESTION[1]]
    encoder = ChatEncoder(tokenizer, max_length=60, on_error="drop")
    _, counts = encoder.encode_rows([QUESTION, spelled, cut, long, [], {"text": "<|begin_of_text|>" + text}])
    expected = Counts(rows=6, kept=4, dropped_too_long=1, dropped_invalid=1, cut=1, repaired=1, escaped=1)
    assert counts == encoder.counts
    assert (counts.tokens, counts.trained_tokens) > (0, 0)
    assert dataclasses.replace(counts, tokens=0, trained_tokens=0) == expected
    assert [(example.row, example.kind) for example in counts.examples] == [
        (1, "escaped"),
        (2, "cut"),
        (3, "dropped_too_long"),
        (4, "dropped_invalid"),
        (5, "repaired"),
    ]
    assert counts.rows == counts.kept + counts.dropped


# Rows that cannot be read

BAD_ROWS: dict[str, Any] = {
    "an empty conversation": {"messages": []},
    "no assistant turn": {"messages": QUESTION[:1]},
    "null content": {"messages": [QUESTION[0], {"role": "assistant", "content": None}]},
    "content that is a number": {"messages": [QUESTION[0], {"role": "assistant", "content": 4}]},
    "no list at all": {"messages": 7},
    "no conversation at all": 7,
    "an unknown role": {"messages": [{"role": "alien", "content": "x"}, QUESTION[1]]},
    "two calls where the template takes one": {
        "messages": [
            QUESTION[0],
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}] * 2},
        ]
    },
    "half a surrogate pair": {"messages": [{"role": "user", "content": "\ud83d"}, QUESTION[1]]},
    "half a surrogate pair in a text": {"text": "\ud83d"},
    "an empty text": {"text": ""},
}


@pytest.mark.parametrize("kind", list(BAD_ROWS))
def test_a_row_that_cannot_be_read_raises_with_its_number_and_counts_nothing(kind: str) -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    with pytest.raises(PadfixError, match=r"^row 12: (?!row)"):
        encoder.encode_rows([{"messages": QUESTION}, {"text": "fine"}, BAD_ROWS[kind]], 10)
    with pytest.raises(PadfixError, match=r"^row 5: "):
        encoder([{"messages": QUESTION}, BAD_ROWS[kind]], [3, 5])
    assert encoder.counts == Counts()


@pytest.mark.parametrize("kind", list(BAD_ROWS))
def test_a_row_that_cannot_be_read_is_dropped_and_counted_by_choice(kind: str) -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), on_error="drop")
    columns, counts = encoder.encode_rows([{"messages": QUESTION}, BAD_ROWS[kind], QUESTION])
    assert len(columns["input_ids"]) == counts.kept == 2
    assert counts.dropped_invalid == 1
    assert columns["input_ids"][0] == columns["input_ids"][1]


def test_a_row_whose_tokens_cannot_be_placed_is_named_or_dropped_alone() -> None:
    # The offsets leave out white space, and the normalizer makes other bytes of an accent that stands by itself.
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    fine, spelled, bad, both = (
        with_word("user", f"{word} now") for word in ("", "<|eot_id|>", "e\u0301", "<|eot_id|>e\u0301")
    )
    for rows, number in (([fine, spelled, bad, fine], 2), ([fine, both, bad], 1), ([fine, bad, both], 1)):
        with pytest.raises(PadfixError, match=f"^row {number}: The tokenizer .*tokens do not spell the text"):
            ChatEncoder(tokenizer).encode_rows(rows)
    columns, counts = ChatEncoder(tokenizer, on_error="drop").encode_rows([fine, spelled, bad, fine])
    assert (counts.kept, counts.dropped_invalid, counts.escaped) == (3, 1, 1)
    expected = ChatEncoder(shared("3.1-instruct")).encode_rows([fine, spelled, fine])[0]
    assert columns == expected


def test_a_row_given_alone_is_named_by_the_index_that_came_with_it() -> None:
    with pytest.raises(PadfixError, match=r"^row 41: "):
        ChatEncoder(shared("3.1-instruct"))({"messages": []}, 41)


def test_a_tokenizer_without_a_template_raises_though_bad_rows_are_dropped() -> None:
    encoder = ChatEncoder(shared("3-base"), on_error="drop")
    with pytest.raises(PadfixError, match="no chat template"):
        encoder.encode_rows([QUESTION])


# Rows of which the template loses a part

SILENT = "{{ '' if 'hush' in m.content else m.content }}<|eot_id|>"
LOSSES: dict[str, Any] = {
    # Llama 3's first template knows no tools and writes the missing content as "None".
    "a tool call": ("3-instruct-early", with_word("user", "hello"), "leaves out the tool call 'look' of message 2"),
    "text parts": (
        "3.1-instruct",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, QUESTION[1]]},
        "knows no text parts and writes those of message 0 as Python code",
    ),
    "a text": (
        None,
        {"messages": [*QUESTION, {"role": "assistant", "content": "hush"}, *QUESTION]},
        "writes none of the text of message 2",
    ),
    "two texts": (
        None,
        {"messages": [*QUESTION, *[{"role": "assistant", "content": "hush"}] * 2]},
        "writes none of the text of message 2, and 1 more",
    ),
}


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_row_of_which_the_template_loses_a_part_is_encoded_as_rendered_and_named(kind: str) -> None:
    release, row, said = LOSSES[kind]
    encoder = ChatEncoder(shared(release)) if release else encoder_for(SILENT)
    columns, counts = encoder.encode_rows([QUESTION, row], 3)
    assert columns["input_ids"][1] == template_ids(encoder.tokenizer, row["messages"])
    text = encoder.tokenizer.apply_chat_template(row["messages"], tokenize=False)
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n" if release else "<|start_header_id|>assistant\n"
    answers = [part.partition("<|eot_id|>")[0] + "<|eot_id|>" for part in text.split(header)[1:] if part]
    assert [encoder.tokenizer.decode(run) for run in trained_runs(columns["labels"][1])] == answers
    assert (counts.kept, counts.lossy, counts.remarkable) == (2, 1, True)
    assert counts.name_rows() == [f"lossy: row 4 (The chat template {said})"]
    assert "1 of which the template loses a part" in str(counts)


@pytest.mark.parametrize("kind", list(LOSSES))
def test_a_row_of_which_the_template_loses_a_part_is_an_error_by_choice(kind: str) -> None:
    release, row, said = LOSSES[kind]
    for on_error in ("raise", "drop"):
        settings: Any = {"on_loss": "error", "on_error": on_error}
        encoder = ChatEncoder(shared(release), **settings) if release else encoder_for(SILENT, **settings)
        if on_error == "drop":
            _, counts = encoder.encode_rows([QUESTION, row])
            assert (counts.kept, counts.dropped_invalid, counts.lossy) == (1, 1, 0)
        else:
            with pytest.raises(PadfixError, match=f"^row 1: The chat template {said.partition(', and')[0]}"):
                encoder.encode_rows([QUESTION, row])


def test_a_tokenizer_without_offsets_is_refused_with_the_line_that_helps() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")

    class Slow(type(tokenizer)):  # type: ignore[misc]
        is_fast = False

    tokenizer.__class__ = Slow
    for row in (QUESTION, with_word("user", "<|eot_id|>")):
        with pytest.raises(PadfixError, match="use_fast=True"):
            ChatEncoder(tokenizer, on_error="drop")([row])


def test_user_data_is_not_changed() -> None:
    row = with_word("user", "<|eot_id|>")
    before = json.dumps(row)
    ChatEncoder(shared("3.1-instruct"))(row)
    assert json.dumps(row) == before


# The tokenizer stays as it was


def state_of(tokenizer: Any) -> tuple[Any, ...]:
    backend = tokenizer.backend_tokenizer
    plain = {name: repr(value) for name, value in vars(tokenizer).items() if name != "_tokenizer"}
    return backend.to_str(), backend.truncation, backend.padding, backend.encode_special_tokens, plain


def test_encoding_leaves_the_tokenizer_as_it_was_and_heeds_none_of_its_switches() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.model_max_length = 60
    tokenizer.padding_side = "left"
    tokenizer.backend_tokenizer.enable_truncation(8, stride=2, direction="left")
    tokenizer.backend_tokenizer.enable_padding(direction="left", pad_id=5, pad_token="!", length=700)
    tokenizer.backend_tokenizer.encode_special_tokens = True
    before = state_of(tokenizer)
    rows: list[Any] = [*rows_for("3.1-instruct")[:40], with_word("user", FAKE_TURN)]
    encoder = ChatEncoder(tokenizer)
    columns, _ = encoder.encode_rows(rows)
    encoder([{"text": "plain"}, {"text": tokenizer.apply_chat_template(QUESTION, tokenize=False)}])
    with pytest.raises(PadfixError):
        encoder([7])
    assert state_of(tokenizer) == before
    assert columns["input_ids"][:40] == encoded_rows("3.1-instruct")["input_ids"][:40]
    assert columns["labels"][:40] == encoded_rows("3.1-instruct")["labels"][:40]


# Text


def assert_text_is_right(tokenizer: Any) -> None:
    encoder = ChatEncoder(tokenizer)
    for text in PLAIN_TEXTS:
        for given in (text, "<|begin_of_text|>" + text, "<|begin_of_text|><|begin_of_text|>" + text):
            row = encoder({"text": given})
            ids = row["input_ids"]
            assert ids[0] == BOS and ids.count(BOS) == 1
            assert ids[-1] == TEXT_END and ids.count(TEXT_END) == 1
            assert tokenizer.decode(ids[1:-1], clean_up_tokenization_spaces=False) == text
            assert row["labels"] == [IGNORE_INDEX, *ids[1:]]
    assert encoder.counts.repaired == len(PLAIN_TEXTS)


@pytest.mark.parametrize("release", ALL)
def test_plain_text_gets_one_bos_and_one_end_also_patched_and_reloaded(release: str, tmp_path: Path) -> None:
    assert_text_is_right(shared(release))
    assert_text_is_right(shared(release, True))
    shared(release, True).save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert_text_is_right(reloaded)
    if release in INSTRUCT:
        columns, _ = ChatEncoder(reloaded).encode_rows(rows_for(release)[:20])
        assert columns["input_ids"] == encoded_rows(release)["input_ids"][:20]
        assert columns["labels"] == encoded_rows(release)["labels"][:20]


def test_a_text_that_ends_already_gets_no_second_end() -> None:
    row = ChatEncoder(shared("3.1-base"))({"text": "Hello<|end_of_text|>"})
    assert row["input_ids"] == [BOS, 9906, TEXT_END]


def test_a_plain_text_after_a_rendered_chat_is_still_plain_text() -> None:
    tokenizer = shared("3.1-instruct")
    texts = ["Hello", tokenizer.apply_chat_template(QUESTION, tokenize=False), "Hello"]
    rows = ChatEncoder(tokenizer)({"text": texts})
    assert rows["input_ids"][0] == rows["input_ids"][2] == [BOS, 9906, TEXT_END]
    assert trained_runs(rows["labels"][1]) == [[19, EOT]]


def test_plain_text_needs_no_markers_of_the_template() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}"
    assert ChatEncoder(tokenizer)({"text": "Hello"})["input_ids"] == [BOS, 9906, TEXT_END]


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("bos", [1, 2])
@pytest.mark.parametrize("release", ["3-base+chat", "3.1-base+chat", *INSTRUCT])
def test_a_rendered_chat_as_text_equals_its_messages(release: str, bos: int, train_on: Any) -> None:
    tokenizer, rows = shared(release, True), rows_for(release)[:50]
    expected, _ = ChatEncoder(tokenizer, train_on=train_on).encode_rows(rows)
    extra = "<|begin_of_text|>" * (bos - 1)
    texts = [
        {"text": extra + tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)}
        for row in rows
    ]
    columns, counts = ChatEncoder(tokenizer, train_on=train_on).encode_rows(texts)
    assert columns == expected
    assert counts.repaired == (len(rows) if bos == 2 else 0)


def test_a_rendered_chat_as_text_is_cut_at_whole_turns_too() -> None:
    tokenizer = shared("3.1-instruct")
    rows = rows_for("3.1-instruct")[:150]
    texts = [
        {"text": tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)}
        for row in rows
    ]
    made = [ChatEncoder(tokenizer, max_length=150).encode_rows(kind) for kind in (rows, texts)]
    assert made[0] == made[1]
    assert made[0][1].cut > 10


# The ways in


def test_one_row_a_list_of_rows_and_columns_give_the_same() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    one = encoder(QUESTION)
    sharegpt = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "4"}]
    alone: list[Any] = [
        tuple(QUESTION),
        {"messages": QUESTION},
        {"messages": QUESTION, "tools": None},
        {"messages": QUESTION, "tags": []},
        {"conversations": sharegpt, "id": 3},
        sharegpt,
        {"prompt": "What is 2 + 2?", "completion": "4"},
        {"prompt": QUESTION[:1], "completion": QUESTION[1:]},
        {"instruction": "What is 2 + 2?", "output": "4"},
    ]
    for row in alone:
        assert encoder(row) == one
    many = {name: [value] * 2 for name, value in one.items()}
    together: list[Any] = [
        [QUESTION, QUESTION],
        [{"messages": QUESTION}, {"conversations": sharegpt}],
        [{"messages": QUESTION, "from": "a crawl"}, {"messages": QUESTION, "role": "x"}],
        {"messages": [QUESTION, QUESTION], "tools": [None, None]},
        {"conversations": [sharegpt, sharegpt]},
        {"prompt": ["What is 2 + 2?"] * 2, "completion": ["4", "4"]},
        {"prompt": [QUESTION[:1]] * 2, "completion": [QUESTION[1:]] * 2},
    ]
    for batch in together:
        assert encoder(batch) == many


def test_a_row_with_an_array_beside_its_messages_is_one_row() -> None:
    numpy = pytest.importorskip("numpy")
    encoder = ChatEncoder(shared("3.1-instruct"))
    assert encoder({"messages": QUESTION, "embedding": numpy.zeros(4)}) == encoder(QUESTION)


@pytest.mark.parametrize(
    "wrong",
    [{"train_on": "all"}, {"truncation": "cut"}, {"on_error": "ignore"}, {"max_length": 1}, {"max_length": "8"}],
)
def test_an_unknown_setting_is_refused_before_anything_is_encoded(wrong: Any) -> None:
    with pytest.raises(PadfixError, match=next(iter(wrong))):
        ChatEncoder(shared("3.1-instruct"), **wrong)


def test_a_date_that_the_template_takes_from_the_clock_is_pinned_and_shown() -> None:
    pinned = ChatEncoder(shared("3.2-instruct"), template_kwargs={"date_string": "01 Jan 2025"})
    assert "Today Date: 01 Jan 2025" in pinned.tokenizer.decode(pinned(QUESTION)["input_ids"])
    by_itself = ChatEncoder(shared("3.2-instruct"))
    if gives_clock(by_itself.tokenizer):
        assert set(by_itself.template_kwargs) == {"date_string"}
    else:  # then the template prints a date of its own, the same one every day
        assert "Today Date: 26 Jul 2024" in by_itself.tokenizer.decode(by_itself(QUESTION)["input_ids"])
    assert ChatEncoder(shared("3.1-instruct")).template_kwargs == {}


# datasets


@pytest.fixture(scope="module")
def dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list([{"messages": make_conversation(random.Random(n))} for n in range(40)])


@pytest.fixture
def expected(dataset: Any) -> dict[str, list[list[int]]]:
    columns, _ = ChatEncoder(shared("3.1-instruct")).encode_rows([{"messages": m} for m in dataset["messages"]])
    return columns


def test_dataset_map_in_batches_alone_with_indices_and_in_two_processes(
    dataset: Any, expected: dict[str, Any]
) -> None:
    ways: list[dict[str, Any]] = [
        {"batched": True, "batch_size": 7},
        {"batched": True, "with_indices": True},
        {"batched": False},
        {"batched": False, "with_indices": True},
        {"batched": True, "num_proc": 2},
    ]
    for way in ways:
        encoder = ChatEncoder(shared("3.1-instruct"))
        made = dataset.map(encoder, remove_columns=dataset.column_names, **way)
        assert made.column_names == ["input_ids", "labels"]
        assert {name: list(made[name]) for name in made.column_names} == expected, way


def test_without_indices_rows_are_named_within_their_batch_alone() -> None:
    datasets = pytest.importorskip("datasets")
    spelled = [{"role": "user", "content": "<|eot_id|>"}, QUESTION[1]]
    rows = datasets.Dataset.from_list([{"messages": QUESTION}] * 5 + [{"messages": spelled}])
    for settings, name in (
        ({"batched": True, "batch_size": 4}, "row 1 of its batch"),
        ({"batched": True, "batch_size": 4, "with_indices": True}, "row 5"),
        ({"batched": False}, "a row"),
        ({"batched": False, "with_indices": True}, "row 5"),
    ):
        encoder = ChatEncoder(shared("3.1-instruct"))
        rows.map(encoder, load_from_cache_file=False, **settings)
        assert encoder.counts.name_rows() == [f"escaped: {name} ('<|eot_id|>')"]
    with pytest.raises(PadfixError, match=r"^row 1 of this batch: the conversation is empty"):
        ChatEncoder(shared("3.1-instruct"))([QUESTION, {"messages": []}])
    with pytest.raises(PadfixError, match=r"^the conversation is empty"):
        ChatEncoder(shared("3.1-instruct"))({"messages": []})
    with pytest.raises(PadfixError, match=r"^\d+ tokens are more than"):
        ChatEncoder(shared("3.1-instruct"), max_length=5, truncation="error")(QUESTION)


def test_dataset_map_with_indices_names_the_row_of_the_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"messages": QUESTION}] * 5 + [{"messages": []}])
    for batched in (True, False):
        with pytest.raises(PadfixError, match=r"^row 5: "):
            rows.map(ChatEncoder(shared("3.1-instruct")), batched=batched, batch_size=2, with_indices=True)


def test_tool_rows_survive_arrow_which_fills_every_message_with_null_keys() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row for row in rows_for("3.1-instruct")[:200] if "tools" in row or len(row["messages"]) == 2]
    rows = json.loads(json.dumps(rows, sort_keys=True))  # as datasets up to 3 sorts them, which the template shows
    filled = datasets.Dataset.from_list(rows)
    made = filled.map(ChatEncoder(shared("3.1-instruct")), batched=True, remove_columns=filled.column_names)
    columns, _ = ChatEncoder(shared("3.1-instruct")).encode_rows(rows)
    assert list(made["input_ids"]) == columns["input_ids"]
    assert list(made["labels"]) == columns["labels"]


def test_an_encoder_hashes_the_same_before_and_after_use_and_differently_for_other_settings() -> None:
    hash_of: Callable[[Any], str] = pytest.importorskip("datasets.fingerprint").Hasher.hash
    encoder, twin = (ChatEncoder(fresh_tokenizer("3.1-instruct")) for _ in range(2))
    before = hash_of(encoder)
    encoder([{"messages": QUESTION}, with_word("user", FAKE_TURN), {"text": "plain"}])
    encoder({"text": twin.tokenizer.apply_chat_template(QUESTION, tokenize=False)})
    assert hash_of(encoder) == hash_of(twin) == before
    others = [{"max_length": 9}, {"train_on": "last"}, {"truncation": "tokens"}, {"template_kwargs": {"x": 1}}]
    hashes = {hash_of(ChatEncoder(twin.tokenizer, **other)) for other in others}  # type: ignore[arg-type]
    assert len(hashes | {before}) == 5


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from tests.conftest import fresh_tokenizer; from llama_padfix.encoding.encoder import ChatEncoder;"
        "from datasets.fingerprint import Hasher; print(Hasher.hash(ChatEncoder(fresh_tokenizer('3.1-instruct'))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from datasets.fingerprint import Hasher

    assert run.stdout.split()[-1] == Hasher.hash(ChatEncoder(fresh_tokenizer("3.1-instruct")))


def test_a_pickled_encoder_encodes_the_same_and_starts_counting_anew() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), max_length=500)
    made = encoder(QUESTION)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.counts == Counts()
    assert again(QUESTION) == made
    assert encoder.counts.rows == 1


# What the counts name


def test_rows_that_spell_control_tokens_are_named_with_the_tokens() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"), allowed_tokens=["<|python_tag|>"])
    rows = [
        QUESTION,
        [{"role": "user", "content": "a <|eot_id|> and <|end_of_text|>, <|eot_id|>"}, QUESTION[1]],
        [QUESTION[0], {"role": "assistant", "content": "<|python_tag|>4"}],
        [{"role": "user", "content": "<|python_tag|>"}, {"role": "assistant", "content": "<|python_tag|>4"}],
    ]
    _, counts = encoder.encode_rows(rows, 100)
    assert (counts.escaped, counts.allowed) == (2, 2)
    assert counts.examples == (
        CountedRow(101, "escaped", "'<|end_of_text|>', '<|eot_id|>'"),
        CountedRow(102, "allowed", "'<|python_tag|>'"),
        CountedRow(103, "escaped", "'<|python_tag|>'"),
        CountedRow(103, "allowed", "'<|python_tag|>'"),
    )
    assert counts.name_rows() == [
        "escaped: row 101 ('<|end_of_text|>', '<|eot_id|>'), row 103 ('<|python_tag|>')",
        "allowed: row 102 ('<|python_tag|>'), row 103 ('<|python_tag|>')",
    ]
    assert "2 with control tokens in their text, encoded as text; 2 with control tokens in their text, left in" in str(
        counts
    )
    everything, counts = ChatEncoder(shared("3.1-instruct"), special_tokens="allow").encode_rows(rows)
    assert (counts.escaped, counts.allowed) == (0, 3) and everything["input_ids"][1].count(EOT) == 5
    with pytest.raises(PadfixError, match=r"row 1: .*'<\|end_of_text\|>', '<\|eot_id\|>', which special_tokens"):
        ChatEncoder(shared("3.1-instruct"), special_tokens="error").encode_rows(rows)


def test_as_many_rows_are_named_as_anybody_reads() -> None:
    spelled, long = [{"role": "user", "content": "<|eot_id|>"}, QUESTION[1]], [*QUESTION, *QUESTION, *QUESTION]
    encoder = ChatEncoder(shared("3.1-instruct"), on_error="drop", max_length=60)
    for start in range(0, 40, 4):
        encoder.encode_rows([spelled, {"messages": []}, {"text": "word " * 90}, long], start)
    counts = encoder.counts
    kinds = [example.kind for example in counts.examples]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ("escaped", "dropped_invalid", "dropped_too_long", "cut"), 5
    )
    assert [example.row for example in counts.examples if example.kind == "cut"] == [3, 7, 11, 15, 19]
    lines = dict(line.split(": ", 1) for line in counts.name_rows())
    assert all(line.endswith(", ...") for line in lines.values())
    assert lines["dropped_invalid"].startswith("row 1 (the conversation is empty")
    assert re.match(r"row 2 \(\d+ tokens\), row 6 \(", lines["dropped_too_long"])
    assert max(len(example.detail) for example in counts.examples) <= 100


def template_of_turns(assistant: str) -> str:
    """A template that writes its assistant turns in the given way, behind a header of its own."""
    return (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + assistant
        + "{% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
    )


def encoder_for(assistant: str, **settings: Any) -> ChatEncoder:
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.chat_template = template_of_turns(assistant)
    return ChatEncoder(tokenizer, **settings)


def test_what_a_row_says_cannot_break_out_of_the_line_that_names_it() -> None:
    raises = "{% if 'bad' in m.content %}{{ raise_exception(m.content) }}{% endif %}{{ m.content }}<|eot_id|>"
    encoder = encoder_for(raises, on_error="drop")
    encoder.encode_rows([[QUESTION[0], {"role": "assistant", "content": "bad \x1b[31m\n::error::" + "y" * 900}]])
    [example] = encoder.counts.examples
    assert "bad \\x1b[31m\\n::error" in example.detail and example.detail.isprintable()
    assert len(example.detail) == 100 and example.detail.endswith("...")


def test_a_turn_without_a_stop_token_is_trained_to_its_end_and_counted() -> None:
    encoder = encoder_for("{{ m.content }}{% if not loop.last %}<|eot_id|>{% endif %}")
    row = encoder([*QUESTION, *QUESTION])
    assert [encoder.tokenizer.decode(run) for run in trained_runs(row["labels"])] == ["4<|eot_id|>", "4"]
    assert encoder.counts.unstopped == 1
    assert encoder.counts.examples == (CountedRow(None, "unstopped", "message 3"),)
    assert "1 with a trained turn that the template leaves without a stop token" in str(encoder.counts)
    encoder([*QUESTION, *QUESTION, QUESTION[0]])
    encoder([*QUESTION, *QUESTION[:1], QUESTION[1] | {"train": False}])
    assert encoder.counts.unstopped == 1, "none that is trained lacks it"


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize(
    ("assistant", "disagreeing"),
    [
        ("{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}", 0),
        ("{% generation %}{{ m.content }}<|eot_id|>\n\n{% endgeneration %}", 0),
        ("{% generation %}{{ m.content }}{% endgeneration %}<|eot_id|>", 1),
        ("{% generation %}{% endgeneration %}{{ m.content }}<|eot_id|>", 1),
        ("{{ m.content }}<|eot_id|>", 0),
    ],
)
def test_a_generation_tag_that_marks_something_else_is_counted(
    assistant: str, disagreeing: int, train_on: Any
) -> None:
    encoder = encoder_for(assistant, train_on=train_on)
    row = encoder([*QUESTION, *QUESTION])
    assert len(trained_runs(row["labels"])) == (2 if train_on == "assistant" else 1)
    assert encoder.counts.disagreeing == disagreeing
    said = "in which {% generation %} marks other text than is trained" in str(encoder.counts)
    assert said == bool(disagreeing) == ("disagreeing: a row" in encoder.counts.name_rows())


def test_reasoning_that_the_template_leaves_out_is_counted() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder([QUESTION[0], QUESTION[1] | {"reasoning_content": "Two and two."}])
    assert encoder.counts.unreasoned == 1 and encoder.counts.name_rows() == ["unreasoned: a row (message 1)"]
    assert "1 whose reasoning the template leaves out of a trained turn" in str(encoder.counts)
    encoder([QUESTION[0], QUESTION[1] | {"reasoning_content": " \n"}])
    encoder([QUESTION[0], QUESTION[1] | {"reasoning_content": "Two", "train": False}, *QUESTION])
    writes = encoder_for("<think>{{ m.reasoning_content }}</think>{{ m.content }}<|eot_id|>")
    writes([QUESTION[0], QUESTION[1] | {"reasoning_content": "Two and two."}])
    assert encoder.counts.unreasoned == 1 and writes.counts.unreasoned == 0


def test_arguments_as_json_text_that_the_template_quotes_again_are_counted() -> None:
    def call(arguments: Any) -> list[Any]:
        calls = [{"type": "function", "function": {"name": "look", "arguments": arguments}}]
        return [QUESTION[0], {"role": "assistant", "tool_calls": calls}]

    encoder = ChatEncoder(shared("3.1-instruct"))
    encoder(call({"city": "Zürich"}))
    encoder(call({"query": '{"a": 1}'}))
    assert encoder.counts.quoted == 0
    encoder(call('{"city": "Zürich"}'))
    assert encoder.counts.quoted == 1 and encoder.counts.name_rows() == ["quoted: a row (message 1)"]
    assert "1 whose tool arguments are JSON text that the template quotes again" in str(encoder.counts)
    writes = encoder_for(
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name ~ m.tool_calls[0].function.arguments }}"
        "{% else %}{{ m.content }}{% endif %}<|eot_id|>"
    )
    writes(call('{"city": "Zürich"}'))
    assert writes.counts.quoted == 0


# Which turns are trained, message by message

CHOSEN = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "One"},
    {"role": "user", "content": "Ho"},
    {"role": "assistant", "content": "Two"},
]


def answers_of(encoder: ChatEncoder, row: Any) -> list[str]:
    runs = trained_runs(encoder(row)["labels"])
    return [encoder.tokenizer.decode(run).removesuffix("<|eot_id|>") for run in runs]


@pytest.mark.parametrize(
    ("keys", "trained"),
    [
        ({"train": False}, False),
        ({"weight": 0}, False),
        ({"weight": 0.0}, False),
        ({"train": True, "weight": 0}, False),
        ({"train": False, "weight": 1}, False),
        ({"train": True}, True),
        ({"weight": 1}, True),
        ({"weight": 1.0}, True),
        ({"train": None}, True),
        ({"weight": None, "train": None}, True),
    ],
)
@pytest.mark.parametrize("shape", ["messages", "sharegpt", "prompt-completion"])
def test_a_message_says_whether_it_is_trained(shape: str, keys: dict[str, Any], trained: bool) -> None:
    messages = [*CHOSEN[:1], CHOSEN[1] | keys, *CHOSEN[2:]]
    row: dict[str, Any] = {"messages": messages}
    if shape == "sharegpt":
        row = {"conversations": [{"from": m.pop("role"), "value": m.pop("content"), **m} for m in map(dict, messages)]}
    elif shape == "prompt-completion":
        row = {"prompt": messages[:1], "completion": messages[1:]}
    encoder = ChatEncoder(shared("3.1-instruct"))
    assert answers_of(encoder, row) == (["One", "Two"] if trained else ["Two"])
    assert encoder(row)["input_ids"] == encoder({"messages": CHOSEN})["input_ids"], "the keys are not rendered"


@pytest.mark.parametrize("keys", [{"weight": 0.5}, {"weight": 2}, {"weight": "0"}, {"train": 0}, {"train": "false"}])
def test_a_weight_between_or_beside_zero_and_one_is_an_error_that_names_the_message(keys: dict[str, Any]) -> None:
    with pytest.raises(PadfixError, match=r"row 7: message 3 has train=.* write train: true or false, or weight: 0"):
        ChatEncoder(shared("3.1-instruct")).encode_rows([[*CHOSEN[:3], CHOSEN[3] | keys]], 7)


def test_the_ways_to_choose_turns_add_up() -> None:
    tokenizer = shared("3.1-instruct")
    seen: list[Any] = []

    def choose(message: Any, index: int) -> bool:
        seen.append((dict(message), index))
        return index == 3

    assert answers_of(
        ChatEncoder(tokenizer, train_on=choose), [CHOSEN[0], CHOSEN[1] | {"weight": 1}, *CHOSEN[2:]]
    ) == ["Two"]
    assert seen == [(CHOSEN[1], 1), (CHOSEN[3], 3)], "asked for each assistant message, without the keys"
    assert answers_of(ChatEncoder(tokenizer, train_on={"roles": ["assistant"]}), CHOSEN) == ["One", "Two"]
    assert answers_of(ChatEncoder(tokenizer, train_on="last"), CHOSEN) == ["Two"]
    for train_on in ("last", choose):
        with pytest.raises(PadfixError, match="`train` and `weight` leave none"):
            ChatEncoder(tokenizer, train_on=train_on)([*CHOSEN[:3], CHOSEN[3] | {"train": False}])


@pytest.mark.parametrize("key", ["train", "weight"])
def test_a_dataset_in_which_some_messages_carry_the_key_trains_all_others(key: str) -> None:
    datasets = pytest.importorskip("datasets")
    off: Any = False if key == "train" else 0.0
    rows = [{"messages": CHOSEN}, {"messages": [CHOSEN[0], CHOSEN[1] | {key: off}, *CHOSEN[2:]]}]
    filled = datasets.Dataset.from_list(rows)
    assert filled[0]["messages"][1][key] is None, "Arrow fills in what is missing"
    encoder = ChatEncoder(shared("3.1-instruct"))
    made = filled.map(encoder, batched=True, remove_columns=filled.column_names)
    assert [len(trained_runs(labels)) for labels in made["labels"]] == [2, 1]
    assert made["input_ids"][0] == made["input_ids"][1]
