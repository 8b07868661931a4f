"""Ids and labels of the encoder against Meta's code, TRL's masks and prefixes; texts; the ways in."""

from __future__ import annotations

import functools
import json
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llama_padfix.core.compat import gives_clock
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from tests.conftest import ALL, INSTRUCT, fresh_tokenizer
from tests.support.conversations import (
    FAKE_TURN,
    QUESTION,
    encoded_rows,
    rows_for,
    shared,
    trained_runs,
    with_word,
)
from tests.support.versions import template_ids

BOS, TEXT_END, EOT = 128000, 128001, 128009
LLAMA3_HEADER = [128006, 78191, 128007, 271]
PLAIN_TEXTS = (
    "Hello world",
    " leading space",
    "\n\nnew lines\n",
    "你好 🙂 e\u0301",
    "def f():\n\treturn 1",
    "a" * 300,
)


# Ids


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
@pytest.mark.parametrize("release", INSTRUCT)
@pytest.mark.slow
def test_ids_equal_the_chat_template_with_one_bos_on_a_thousand_conversations(release: str, patched: bool) -> None:
    tokenizer = shared(release, patched)
    columns = encoded_rows(release, patched)
    # All ids of a patched tokenizer are compared with these by the next test.
    for number, row in islice(enumerate(rows_for(release)), 0, None, 4 if patched else 1):
        ids = columns["input_ids"][number]
        assert ids == template_ids(tokenizer, row["messages"], tools=row.get("tools")), number
        assert ids[0] == BOS and ids.count(BOS) == 1, number


@pytest.mark.parametrize("release", INSTRUCT)
@pytest.mark.slow
def test_patching_changes_neither_ids_nor_labels(release: str) -> None:
    assert encoded_rows(release, True) == encoded_rows(release, False)


@pytest.mark.parametrize("release", INSTRUCT)
@pytest.mark.slow
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
@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.slow
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
@pytest.mark.slow
def test_plain_text_gets_one_bos_and_one_end_also_patched_and_reloaded(release: str, tmp_path: Path) -> None:
    assert_text_is_right(shared(release))
    assert_text_is_right(shared(release, True))
    if release in ("3.1-base", "3.1-instruct-early", "3.2-instruct"):
        return  # saved like 3-base and 3.1-instruct: the same BOS, EOS and post-processor
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


@functools.cache
def encode_fifty(day: date, release: str, train_on: Any) -> dict[str, Any]:
    return ChatEncoder(shared(release, True), train_on=train_on).encode_rows(rows_for(release)[:50])[0]


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("bos", [1, 2])
@pytest.mark.parametrize("release", ["3-base+chat", "3.1-base+chat", *INSTRUCT])
def test_a_rendered_chat_as_text_equals_its_messages(release: str, bos: int, train_on: Any) -> None:
    tokenizer, rows = shared(release, True), rows_for(release)[:50]
    expected = encode_fifty(date.today(), release, train_on)
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


def test_a_setting_that_is_set_later_is_checked_and_used_from_then_on() -> None:
    encoder = ChatEncoder(shared("3.1-instruct"))
    whole = encoder(QUESTION)["input_ids"]
    encoder.max_length, encoder.truncation = len(whole) - 1, "tokens"
    assert encoder(QUESTION)["input_ids"] == whole[:-1] and encoder.encoding.max_length == len(whole) - 1
    with pytest.raises(PadfixError, match="max_length=1"):
        encoder.max_length = 1
    assert encoder.max_length == encoder.settings.max_length == len(whole) - 1


def test_a_date_that_the_template_takes_from_the_clock_is_pinned_and_shown() -> None:
    pinned = ChatEncoder(shared("3.2-instruct"), template_kwargs={"date_string": "01 Jan 2025"})
    assert "Today Date: 01 Jan 2025" in pinned.tokenizer.decode(pinned(QUESTION)["input_ids"])
    by_itself = ChatEncoder(shared("3.2-instruct"))
    if gives_clock(by_itself.tokenizer):
        assert set(by_itself.template_kwargs) == {"date_string"}
    else:  # then the template prints a date of its own, the same one every day
        assert "Today Date: 26 Jul 2024" in by_itself.tokenizer.decode(by_itself(QUESTION)["input_ids"])
    assert ChatEncoder(shared("3.1-instruct")).template_kwargs == {}
