"""`prepare`: patches once, leaves everything as it was when it cannot, and each part works alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from datasets import Dataset, load_from_disk
from torch.utils.data import DataLoader

from llama_padfix import (
    Change,
    Finding,
    PadfixError,
    Plan,
    Prepared,
    Report,
    build_trainer,
    prepare,
    read_encoding,
    view_mask,
)
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import fresh_tokenizer
from tests.support.small_llama import TEXT_END, TURN_END, read_template, small_model, small_tokenizer

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


def settings(tokenizer: Any, model: Any) -> dict[str, Any]:
    """Everything that a patch could touch, as plain values."""
    return {
        "tokens": copy.deepcopy(tokenizer.special_tokens_map),
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "size": len(tokenizer),
        "init": {name: str(value) for name, value in tokenizer.init_kwargs.items()},
        "processor": tokenizer.backend_tokenizer.post_processor.__getstate__(),
        "template": tokenizer.chat_template,
        "config": copy.deepcopy(model.config.to_dict()),
        "generation": copy.deepcopy(model.generation_config.to_dict()),
    }


@pytest.mark.parametrize("release", ["3-base", "3-instruct-early", "3.2-instruct"])
def test_a_second_prepare_changes_nothing(
    release: str, make_tokenizer: Callable[[str], Any], make_model: Callable[..., Any]
) -> None:
    tokenizer, model = make_tokenizer(release), make_model(release, num_hidden_layers=1)
    weight = model.get_input_embeddings().weight
    held = weight.detach().clone()
    size, template = len(tokenizer), tokenizer.chat_template
    first = prepare(tokenizer, model, device="cpu")
    after = settings(tokenizer, model)
    again = prepare(tokenizer, model, device="cpu")
    assert first.plan and not again.plan and str(again.plan) == "Nothing to change."
    assert settings(tokenizer, model) == after
    assert not [finding for finding in again.report.findings if finding.severity != "note"]
    assert (len(tokenizer), tokenizer.chat_template) == (size, template)
    assert model.get_input_embeddings().weight is weight and bool((weight == held).all())


def test_a_tokenizer_alone_is_enough(tokenizer: Any) -> None:
    prepared = prepare(tokenizer, max_length=64, pad_to_multiple_of=8, device="cpu")
    assert {change.target for change in prepared.plan} == {"tokenizer.pad_token", "tokenizer.adds_bos"}
    encoded = prepared.encode([ROW], progress=False)
    assert prepared.counts.kept == 1
    batch = prepared.collator(list(encoded))
    assert batch["input_ids"].shape == (1, 40) and batch["input_ids"][0, -1] == 128001


def test_parts_work_without_what_they_came_from(tokenizer: Any) -> None:
    prepared = prepare(tokenizer, device="cpu")
    collator, encoder, sft, plain = prepared.collator, prepared.encoder, prepared.training_args, prepared.trainer_args
    del prepared
    assert collator([encoder(ROW)])["labels"].max() == 128009
    assert set(sft) - set(plain) == {"dataset_kwargs"} and plain["bf16"] is plain["fp16"] is False


def test_training_args_are_a_fresh_dict_at_every_call(tokenizer: Any) -> None:
    prepared = prepare(tokenizer, device="cpu")
    prepared.training_args["dataset_kwargs"]["skip_prepare_dataset"] = False
    prepared.trainer_args["label_names"].append("other")
    assert prepared.training_args["dataset_kwargs"] == {"skip_prepare_dataset": True}
    assert prepared.trainer_args["label_names"] == ["labels"]


@pytest.fixture(scope="module")
def untouched() -> tuple[Any, Any]:
    """Shared by tests that prove of it that nothing changes."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.padding_side = "left"
    return tokenizer, make_tiny_llama("3-base", hidden_size=16, num_hidden_layers=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_length": 0}, "max_length=0"),
        ({"max_length": "2048"}, "max_length='2048'"),
        ({"pad_token": "<|no_such_token|>"}, "no_such_token"),
        ({"train_on": "everything"}, "train_on='everything'"),
        ({"truncation": "left"}, "truncation='left'"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"on_loss": "ignore"}, "on_loss='ignore'"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"device": "no-such-device"}, "no-such-device"),
    ],
)
def test_a_wrong_argument_leaves_tokenizer_and_model_as_they_were(
    arguments: dict[str, Any], said: str, untouched: tuple[Any, Any]
) -> None:
    tokenizer, model = untouched
    before = settings(tokenizer, model)
    with pytest.raises(PadfixError, match=said):
        prepare(tokenizer, model, **{"device": "cpu", **arguments})
    assert settings(tokenizer, model) == before


@pytest.mark.parametrize("name", ["pad_token_id", "eos_token_id"])
def test_a_setting_that_cannot_be_written_takes_all_others_back(
    name: str, make_tokenizer: Callable[[str], Any], make_model: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer("3-instruct-early")
    tokenizer.padding_side = "left"
    model = make_model("3-instruct-early", num_hidden_layers=1)

    class Frozen(type(model.generation_config)):  # type: ignore[misc]
        def __setattr__(self, attribute: str, value: Any) -> None:
            if attribute == name:
                raise RuntimeError("read only")
            super().__setattr__(attribute, value)

    model.generation_config.__class__ = Frozen
    before = settings(tokenizer, model)
    with pytest.raises(RuntimeError, match="read only"):
        prepare(tokenizer, model, device="cpu")
    assert settings(tokenizer, model) == before


def test_what_is_no_tokenizer_is_refused_with_the_line_that_mends_it(
    tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    class Processor:
        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def __call__(self, text: str) -> None:
            raise AssertionError("a processor is not asked to encode")

    with pytest.raises(PadfixError, match=r"processor\.tokenizer"):
        prepare(Processor(), device="cpu")  # type: ignore[arg-type]
    with pytest.raises(PadfixError, match="Got a LlamaForCausalLM where a Hugging Face tokenizer is needed"):
        prepare(make_model(num_hidden_layers=1), tokenizer, device="cpu")


def test_printed_it_says_what_changed_why_and_in_which_precision(
    make_tokenizer: Callable[[str], Any], make_model: Callable[..., Any]
) -> None:
    tokenizer, model = make_tokenizer("3-instruct-early"), make_model("3-instruct-early", num_hidden_layers=1)
    prepared = prepare(tokenizer, model, device="cpu")
    text = str(prepared)
    assert text.startswith(f"{len(prepared.plan)} changes:\n")
    assert "  tokenizer.eos_token: '<|end_of_text|>' -> '<|eot_id|>'\n" in text
    assert "  model.generation_config.eos_token_id: 128001 -> (128001, 128009)\n" in text
    assert "float32: cpu" in text and "passed: " in text
    assert all(change.why and change.why in text for change in prepared.plan)


def test_in_a_notebook_nothing_that_a_tokenizer_says_is_taken_for_html(tokenizer: Any) -> None:
    prepared = prepare(tokenizer, device="cpu")
    assert "&lt;|end_of_text|&gt;" in prepared._repr_html_() and "<|end_of_text|>" not in prepared._repr_html_()

    hostile = "<script>alert('x')</script>&\""
    change = Change(hostile, hostile, hostile, hostile, code=hostile)
    finding = Finding(hostile, hostile, "error", hostile)
    parts: dict[str, Any] = {
        "precision": prepared.precision,
        "collator": prepared.collator,
        "encoder": prepared.encoder,
    }
    page = Prepared(plan=Plan((change,)), report=Report((finding,)), **parts)._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") == 5 + 6


def test_what_control_tokens_in_a_message_become_is_passed_to_the_encoder(tokenizer: Any) -> None:
    row = [{"role": "user", "content": "a <|eot_id|> b"}, {"role": "assistant", "content": "c"}]
    assert prepare(tokenizer).encoder(row)["input_ids"].count(128009) == 3
    assert prepare(tokenizer, special_tokens="allow").encoder(row)["input_ids"].count(128009) == 4
    allowed = prepare(tokenizer, allowed_tokens=["<|python_tag|>"]).encoder
    assert allowed([row[0], {"role": "assistant", "content": "<|python_tag|>c"}])["input_ids"].count(128010) == 1
    with pytest.raises(PadfixError, match="special_tokens='error'"):
        prepare(tokenizer, special_tokens="error").encoder(row)


TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "One"},
    {"role": "user", "content": "Ho"},
    {"role": "assistant", "content": "Two"},
]
ROWS = [{"messages": TALK}, {"messages": [TALK[0], TALK[1] | {"weight": 0.0}, *TALK[2:]]}]


def is_one(message: Any, index: int) -> bool:
    return bool(message["content"] == "One")


@pytest.mark.parametrize(
    ("train_on", "rows", "stops"),
    [
        ("assistant", ROWS, [2, 1]),
        ("last", ROWS, [1, 1]),
        ({"roles": ["assistant"]}, ROWS, [2, 1]),
        (is_one, ROWS[:1] * 2, [1, 1]),
    ],
)
@pytest.mark.slow
def test_the_turns_that_are_chosen_reach_the_trainer(
    train_on: Any, rows: list[Any], stops: list[int], tokenizer: Any, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = Dataset.from_list(rows)
    encoded = prepare(copy_tokenizer(tokenizer), train_on=train_on, device="cpu").encode(dataset, progress=False)
    assert [labels.tolist().count(128009) for labels in encoded["labels"]] == stops
    model = make_model(num_hidden_layers=1)
    arguments: dict[str, Any] = {"output_dir": str(tmp_path), "report_to": [], "max_steps": 1}
    arguments["per_device_train_batch_size"] = 2
    trainer = build_trainer(model, tokenizer, dataset, train_on=train_on, date="2019-02-03", **arguments)
    [batch] = list(trainer.get_train_dataloader())
    assert sorted((batch["labels"] == 128009).sum(dim=1).tolist()) == sorted(stops)
    assert read_encoding(trainer.train_dataset).date == "03 Feb 2019"


def test_a_template_of_ones_own_decides_what_ends_a_turn() -> None:
    tokenizer = small_tokenizer(base=True)
    model = small_model(tokenizer, base=True)
    prepared = prepare(tokenizer, model, template=read_template(), device="cpu")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template) == (TURN_END, TEXT_END, None)
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    [row] = prepared.encode([{"messages": chat}], progress=False)
    assert row["labels"][-1] == tokenizer.eos_token_id and list(row["input_ids"]).count(tokenizer.bos_token_id) == 1
    assert not prepare(tokenizer, model, template=read_template(), device="cpu").plan
    by_argument = small_tokenizer(base=True)
    prepare(by_argument, template_kwargs={"chat_template": read_template()}, device="cpu")
    assert by_argument.eos_token == TURN_END


def test_what_is_encoded_says_how(make_tokenizer: Callable[[str], Any]) -> None:
    prepared = prepare(make_tokenizer("3.2-instruct"), max_length=99, date="2019-02-03", device="cpu")
    record = read_encoding(prepared.encode([ROW], progress=False))
    assert record == prepared.encoder.encoding and (record.max_length, record.date) == (99, "03 Feb 2019")


def test_adapters_that_trl_cast_train_in_float32_where_the_run_does(tmp_path: Path, tokenizer: Any) -> None:
    from peft import LoraConfig

    model = make_tiny_llama(hidden_size=16, num_hidden_layers=1)
    model.is_loaded_in_4bit = True  # what makes TRL cast; the rest of such a model does not matter to it
    kept: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "device": "cpu"}
    trainer = build_trainer(
        model,
        tokenizer,
        [ROW],
        output_dir=str(tmp_path),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
        max_steps=1,
        **kept,
    )
    trained = {str(weight.dtype) for weight in trainer.model.parameters() if weight.requires_grad}
    assert trained == {"torch.float32"}


@pytest.mark.slow
def test_added_tokens_train_through_the_lora_that_came_with_them(tmp_path: Path, tokenizer: Any) -> None:
    from peft import LoraConfig

    from llama_padfix import add_tokens, find_lora_targets
    from llama_padfix.core.compat import trains_single_rows

    model = make_tiny_llama(hidden_size=16, num_hidden_layers=1)
    if not trains_single_rows(LoraConfig()):  # PEFT before 0.15 cannot train a row of a matrix that is also the head
        with pytest.raises(PadfixError, match="pip install -U peft"):
            add_tokens(model, tokenizer, ["<tool>"], special=False)
        return
    added = add_tokens(model, tokenizer, ["<tool>"], special=False)
    assert sorted(added.lora.target_modules) == sorted(find_lora_targets(model))
    trainer = build_trainer(
        model,
        tokenizer,
        [ROW],
        output_dir=str(tmp_path),
        peft_config=added.lora,
        max_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    assert trainer.train().training_loss > 0


def test_rows_come_as_arrays_that_a_dataloader_hands_on_and_a_disk_keeps(tokenizer: Any, tmp_path: Path) -> None:
    prepared = prepare(tokenizer, max_length=64, device="cpu")
    alone = prepared.encoder(ROW)
    encoded = prepared.encode([ROW, ROW, ROW], progress=False)
    shuffled = encoded.shuffle(seed=1).select_columns(["labels", "input_ids"])
    splits = prepared.encode({"train": [ROW], "test": [ROW, ROW]}, progress=False)
    encoded.save_to_disk(str(tmp_path / "saved"))
    handed: list[Any] = []

    def collate(rows: list[Any]) -> Any:
        handed.append(rows)
        return prepared.collator(rows)

    assert [batch["labels"].shape[0] for batch in DataLoader(encoded, 2, collate_fn=collate)] == [2, 1]
    for row in (encoded[0], shuffled[0], splits["test"][1], load_from_disk(str(tmp_path / "saved"))[0], *handed[0]):
        assert {type(column) for column in row.values()} == {numpy.ndarray}
        assert {column.dtype for column in row.values()} == {numpy.dtype("int64")}
        assert {name: column.tolist() for name, column in row.items()} == alone
    assert encoded.with_format(None)[0] == alone and read_encoding(encoded) == prepared.encoder.encoding
    assert prepared.collator(handed[0])["labels"].tolist() == [[-100, *alone["labels"][1:]]] * 2
    page = view_mask(encoded, tokenizer).to_text(color=False)
    assert page == view_mask(encoded.with_format(None), tokenizer).to_text(color=False)
    first = encoded.select([0])
    try:
        [row] = first.to_iterable_dataset()
    except NotImplementedError:  # datasets 2 makes a stream of rows without a format only, and says so
        [row] = first.with_format(None).to_iterable_dataset()
    assert {name: numpy.asarray(column).tolist() for name, column in row.items()} == alone
    stream = prepared.encode(Dataset.from_list([ROW]).to_iterable_dataset(), progress=False)
    assert next(iter(stream)) == alone
