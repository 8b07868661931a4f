"""The collator of old scripts trains what the encoder trains, and what TRL's own trained where that was right."""

from __future__ import annotations

import itertools
import logging
import pickle
import random
from collections.abc import Sequence
from typing import Any

import pytest
import trl

from llama_padfix import IGNORE_INDEX, ChatEncoder, DataCollatorForCompletionOnlyLM, PadfixError
from llama_padfix.demo.reference import build_tokenizer
from llama_padfix.encoding.masking import completion_collator as completion
from tests.conftest import fresh_tokenizer
from tests.support.conversations import make_conversation, rows_for, say_control
from tests.support.versions import template_ids

ASKS, ANSWERS = ("<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n")
INSTRUCTION, RESPONSE = "### Instruction:\n", "\n\n### Response:\n"


@pytest.fixture(scope="module")
def llama() -> Any:
    """Llama 3.1 Instruct that pads with the token that ends its turns: where masking by id goes wrong."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.pad_token = "<|eot_id|>"
    return tokenizer


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, logger="llama_padfix.encoding.masking.completion_collator")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "llama_padfix.encoding.masking.completion_collator"
    ]


def unpad(batch: Any) -> list[list[int]]:
    """The labels of each row without its padding."""
    pairs = zip(batch["labels"].tolist(), batch["attention_mask"].tolist(), strict=True)
    return [labels[: sum(mask)] for labels, mask in pairs]


def batches(rows: Sequence[Any]) -> list[list[Any]]:
    return [list(rows[start : start + 16]) for start in range(0, len(rows), 16)]


def texts(tokenizer: Any, labels: list[int]) -> list[str]:
    """What is trained, run by run."""
    runs = [list(run) for trained, run in itertools.groupby(labels, lambda label: label != IGNORE_INDEX) if trained]
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]


def test_several_turns_are_trained_as_the_encoder_trains_them(llama: Any) -> None:
    collator = DataCollatorForCompletionOnlyLM(ANSWERS, ASKS, tokenizer=llama)
    rows = rows_for("3.1-instruct")[:160]  # among them turns of tools, system turns, two answers in a row
    columns, counts = ChatEncoder(llama).encode_rows(rows)
    assert counts.kept == len(rows)
    encoded = [{"input_ids": ids} for ids in columns["input_ids"]]
    found = [labels for batch in batches(encoded) for labels in unpad(collator(batch))]
    assert found == columns["labels"]
    assert any(len(texts(llama, labels)) > 2 for labels in found)


def test_a_control_token_that_a_message_spells_opens_and_ends_nothing(llama: Any) -> None:
    collator = DataCollatorForCompletionOnlyLM(ANSWERS, ASKS, tokenizer=llama)
    rows = [{"messages": make_conversation(random.Random(number), say_control)} for number in range(40)]
    columns, counts = ChatEncoder(llama).encode_rows(rows)
    assert counts.escaped > 10
    encoded = [{"input_ids": ids} for ids in columns["input_ids"]]
    assert [labels for batch in batches(encoded) for labels in unpad(collator(batch))] == columns["labels"]


def test_ids_work_as_a_template_and_padding_never_trains(llama: Any) -> None:
    header = llama.encode(ANSWERS, add_special_tokens=False)
    by_ids = DataCollatorForCompletionOnlyLM(header, llama.encode(ASKS, add_special_tokens=False), tokenizer=llama)
    by_text = DataCollatorForCompletionOnlyLM(ANSWERS, ASKS, tokenizer=llama, pad_to_multiple_of=32)
    rows = [{"input_ids": template_ids(llama, row["messages"])} for row in rows_for("3-instruct-early")[:8]]
    one, other = by_ids(rows), by_text([row["input_ids"] for row in rows])
    assert unpad(one) == unpad(other) and other["input_ids"].shape[1] % 32 == 0
    assert (other["labels"][other["attention_mask"] == 0] == IGNORE_INDEX).all()
    assert all(text.endswith("<|eot_id|>") for labels in unpad(one) for text in texts(llama, labels))


def test_without_an_instruction_template_the_last_answer_is_trained(llama: Any) -> None:
    ids = template_ids(llama, [{"role": role, "content": role * n} for n in (1, 2) for role in ("user", "assistant")])
    [labels] = unpad(DataCollatorForCompletionOnlyLM(ANSWERS, tokenizer=llama)([{"input_ids": ids}]))
    assert texts(llama, labels) == ["assistantassistant<|eot_id|>"]


@pytest.mark.parametrize("answer", ["Paris.", "\n\nParis.", " Paris.", "### Paris"])
def test_a_template_is_found_however_it_fell_into_tokens(answer: str, llama: Any) -> None:
    """`\\n` at its end melts into the answer's own line breaks, and what stands before it into its beginning."""
    turns = [f"{INSTRUCTION}Where?{RESPONSE}{answer}", f"\n\n{INSTRUCTION}And now\n{RESPONSE}Rome."]
    ids = llama.encode("".join(turns))
    alone = llama.encode(RESPONSE, add_special_tokens=False)
    places = [place for place in range(len(ids)) if ids[place : place + len(alone)] == alone]
    assert len(places) < 2  # what TRL's class looked for
    [labels] = unpad(DataCollatorForCompletionOnlyLM(RESPONSE, INSTRUCTION, tokenizer=llama)([{"input_ids": ids}]))
    first, second = texts(llama, labels)
    assert first.strip() in answer.strip() and len(first.strip()) >= len("Paris") and second == "Rome."
    assert "Instruction" not in first


def test_a_token_that_begins_with_a_space_keeps_it_where_decoding_alone_drops_it() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz:#", "▁ask", "▁say", "▁yes"]
    merges: list[tuple[str, str]] = []
    for word in pieces[-3:]:
        merges += [(word[:cut], word[cut]) for cut in range(1, len(word))]
        pieces += [word[:cut] for cut in range(2, len(word)) if word[:cut] not in pieces]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<unk>")
    ids = tokenizer.encode("ask: no say: yes")
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "▁yes" and tokenizer.decode(ids[-1:]) == "yes"
    [labels] = unpad(DataCollatorForCompletionOnlyLM(" say:", tokenizer=tokenizer)([{"input_ids": ids}]))
    assert labels == [IGNORE_INDEX] * (len(ids) - 1) + ids[-1:]


def test_a_row_without_an_answer_is_shown_and_trained_nowhere(llama: Any, said: Any) -> None:
    collator = DataCollatorForCompletionOnlyLM(ANSWERS, ASKS, tokenizer=llama)
    rows = [{"input_ids": llama.encode("Only text.")}, {"input_ids": llama.encode(f"{ANSWERS}Yes.")}]
    labels = unpad(collator(rows))
    assert set(labels[0]) == {IGNORE_INDEX} and texts(llama, labels[1]) == ["Yes."]
    assert [line for line in said() if "1 of 2 rows" in line and "Only text." in line]


def test_the_better_way_is_named_once(llama: Any, said: Any) -> None:
    completion._recommend_prepare.cache_clear()
    for _ in range(2):
        DataCollatorForCompletionOnlyLM(ANSWERS, tokenizer=llama)
    assert [line for line in said() if "prepared.collator" in line] == said() and len(said()) == 1


def test_it_travels_to_the_workers_of_a_dataloader(llama: Any) -> None:
    collator = DataCollatorForCompletionOnlyLM(ANSWERS, ASKS, tokenizer=llama)
    rows = [{"input_ids": template_ids(llama, rows_for("3-instruct-early")[0]["messages"])}]
    assert unpad(pickle.loads(pickle.dumps(collator))(rows)) == unpad(collator(rows))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mlm": True}, "mlm=True is not supported"),
        ({"padding_free": True}, "padding_free=True is not supported"),
        ({"ignore_index": 0}, "ignore_index=0 is not supported"),
        ({"response_template": ""}, "response_template='' is neither a text nor a list"),
        ({"instruction_template": ["a"]}, "instruction_template=.* is neither"),
        ({"tokenizer": None}, "tokenizer=None is no tokenizer"),
    ],
)
def test_what_has_no_meaning_here_is_refused(arguments: dict[str, Any], message: str, llama: Any) -> None:
    with pytest.raises(PadfixError, match=message):
        DataCollatorForCompletionOnlyLM(**{"response_template": ANSWERS, "tokenizer": llama, **arguments})


def test_a_tokenizer_without_pad_token_and_rows_with_labels_are_refused(llama: Any) -> None:
    with pytest.raises(PadfixError, match="pad_token_id is None"):
        DataCollatorForCompletionOnlyLM(ANSWERS, tokenizer=build_tokenizer("3.1-instruct"))
    with pytest.raises(PadfixError, match=r"Row 0 brings labels.*PadCollator"):
        DataCollatorForCompletionOnlyLM(ANSWERS, tokenizer=llama)([{"input_ids": [1, 2], "labels": [1, 2]}])


@pytest.mark.skipif(not hasattr(trl, "DataCollatorForCompletionOnlyLM"), reason="TRL has dropped its own class")
@pytest.mark.parametrize("instruction", [None, ASKS])
def test_the_labels_are_those_of_trls_own_class_where_it_was_right(instruction: str | None) -> None:
    tokenizer = fresh_tokenizer("3-instruct-early")
    tokenizer.pad_token = "<|end_of_text|>"
    ours = DataCollatorForCompletionOnlyLM(ANSWERS, instruction, tokenizer)
    theirs = trl.DataCollatorForCompletionOnlyLM(ANSWERS, instruction, tokenizer=tokenizer)
    conversations = [row["messages"] for row in rows_for("3-instruct-early")[:300]]
    plain = [
        messages
        for messages in conversations
        # It paired the n-th question with the n-th answer.
        if [message["role"] for message in messages if message["role"] != "system"]
        == ["user", "assistant"] * (len(messages) // 2)
    ]
    assert len(plain) > 40
    header = len(tokenizer.encode(ANSWERS, add_special_tokens=False))  # this release appends one to every row
    rows = [{"input_ids": template_ids(tokenizer, messages)[:-header]} for messages in plain]
    for batch in batches(rows):
        made, expected = ours(batch), theirs(batch)
        for name in ("input_ids", "attention_mask", "labels"):
            assert made[name].tolist() == expected[name].tolist()
