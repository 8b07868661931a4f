"""Rows that hold nothing are found, set to the mean, and trained; every other row stays."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from datasets import Dataset

from llama_padfix import PadfixError, add_tokens, build_trainer, diagnose, find_untrained, mean_init_untrained, prepare
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.training.adapters.row_training import average_row, complete_head
from tests.conftest import fresh_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

HEADERS = (128006, 128007)
STOP = 128009
USED = (*HEADERS, 128008, STOP)  # the control tokens of a Llama 3 chat that its base model never saw
CHATS = [
    {"messages": [{"role": "user", "content": f"count to {n}"}, {"role": "assistant", "content": "one two"}]}
    for n in range(8)
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Llama 3.1 Instruct's, for tests that leave it as it is."""
    return fresh_tokenizer("3.1-instruct")


def base(tied: bool = True, value: float | None = 1e-22, dtype: str = "float32") -> Any:
    """A model as Llama 3's base models come: 254 control tokens without a row to speak of.

    Untied, their rows of the head are of ordinary length: the softmax pushes them all away alike.
    """
    model = make_tiny_llama("3.1-base", hidden_size=16, tie_word_embeddings=tied)
    if value is not None:
        with torch.no_grad():
            model.get_input_embeddings().weight[128002:] = value
            if not tied:
                model.lm_head.weight[128002:] = torch.full((16,), 0.02)
    return model.to(getattr(torch, dtype))


def rows_of(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    state = model.state_dict()
    return state["model.embed_tokens.weight"].clone(), state["lm_head.weight"].clone()


@pytest.mark.parametrize(("value", "reason"), [(0.0, "zero"), (1e-22, "zero"), (0.01, "the same as another")])
@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_nothing_are_found_as_the_doctor_finds_them(
    value: float, reason: str, tied: bool, tokenizer: Any
) -> None:
    model = base(tied, value)
    found = find_untrained(model, tokenizer)
    assert [(row.token_id, row.token, row.reason) for row in found] == [
        (128006, "<|start_header_id|>", reason),
        (128007, "<|end_header_id|>", reason),
        (128008, "<|eom_id|>", reason),
        (128009, "<|eot_id|>", reason),
    ]
    assert all(row.norm < row.usual_norm for row in found) and (found[0].head_norm is None) == tied
    [finding] = [f for f in diagnose((tokenizer, model)).findings if f.code == "EMB004"]
    assert all(str(row.token_id) in finding.message for row in found)
    assert "mean_init_untrained(model, tokenizer)" in finding.message


@pytest.mark.parametrize(("tied", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_only_these_rows_change_and_nothing_is_found_after(tied: bool, dtype: str, tokenizer: Any) -> None:
    model = base(tied, dtype=dtype)
    before = rows_of(model)
    done = mean_init_untrained(model, tokenizer)
    after = rows_of(model)
    changed = torch.tensor(USED)
    kept = torch.ones(128256, dtype=torch.bool)
    kept[changed] = False
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[kept], old[kept])
    held = before[0].float().norm(dim=1) > 1e-6
    means = [before[0].float()[held].mean(0), before[0 if tied else 1].float()[held if tied else slice(None)].mean(0)]
    for mean, new in zip(means, after, strict=True):
        assert torch.allclose(new[changed].float(), mean.expand(4, -1), atol=1e-5)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert done.token_ids == USED and [row.token_id for row in done.after] == list(USED)
    assert all(old.norm < 1e-20 < new.norm for old, new in zip(done.before, done.after, strict=True))
    names = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    assert done.lora.trainable_token_indices == {name: list(USED) for name in names}
    assert "'<|eot_id|>' (128009): zero, length" in str(done)
    assert find_untrained(model, tokenizer) == ()
    assert mean_init_untrained(model, tokenizer).token_ids == ()
    assert "EMB004" in diagnose((tokenizer, model)).passed


def test_the_row_of_the_eos_is_not_left_out() -> None:
    """A base model tuned on chats has `<|eot_id|>` as EOS, and often as pad token too."""
    model, tokenizer = base(), fresh_tokenizer("3.1-instruct")
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.bos_token = "<|eot_id|>"
    assert STOP in [row.token_id for row in find_untrained(model, tokenizer)]
    without_template = fresh_tokenizer("3.1-base")
    assert find_untrained(model, without_template) == ()
    without_template.eos_token = "<|eot_id|>"
    assert [row.token_id for row in find_untrained(model, without_template)] == [STOP]


def test_the_tokens_of_the_data_count_and_no_others(tokenizer: Any) -> None:
    """Llama 3 8B has some twenty ordinary tokens that were never trained; 85071 is one of them."""
    model = base(value=None)
    with torch.no_grad():
        model.get_input_embeddings().weight[[85071, 107658]] = 1.6e-21
    assert find_untrained(model, tokenizer) == ()
    assert find_untrained(model, tokenizer, CHATS) == ()
    spoken = tokenizer.decode([85071])
    chat = [{"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": spoken}]}]
    encoded = prepare(fresh_tokenizer("3.1-instruct")).encode([*CHATS, *chat], progress=False)
    padded = [{"input_ids": [128000, 85071, 107658], "attention_mask": [1, 1, 0]}]
    streamed = Dataset.from_list([*CHATS, *chat]).to_iterable_dataset()
    for rows in ([*CHATS, *chat], encoded, padded, streamed, (row for row in chat)):
        assert [row.token_id for row in find_untrained(model, tokenizer, rows)] == [85071]
    many = [*CHATS * 130, *chat]  # more than one batch
    assert mean_init_untrained(model, tokenizer, many).token_ids == (85071,)


def test_a_head_of_zeros_counts(tokenizer: Any) -> None:
    model = base(tied=False, value=None)
    with torch.no_grad():
        model.lm_head.weight[STOP] = 0.0
    before = model.get_input_embeddings().weight[STOP].clone()
    done = mean_init_untrained(model, tokenizer)
    assert [(row.token_id, row.head_norm) for row in done.before] == [(STOP, 0.0)]
    assert done.after[0].head_norm is not None and done.after[0].head_norm > 0
    assert torch.equal(model.get_input_embeddings().weight[STOP], before)  # it was trained: it stays


def test_ordinary_rows_of_every_kind_are_left_alone(tokenizer: Any) -> None:
    torch.manual_seed(0)
    for scale, mean, dtype in ((0.02, 0.0, "float32"), (0.01, 0.005, "bfloat16"), (1.0, 0.0, "float16")):
        model = base(value=None)
        weight = torch.randn_like(model.get_input_embeddings().weight) * scale + mean
        weight *= torch.rand(len(weight), 1) + 0.01  # <|end_of_text|> of Llama 3 8B is a third of the usual length
        model.get_input_embeddings().weight.data = weight
        assert find_untrained(model.to(getattr(torch, dtype)), tokenizer, CHATS) == ()


def test_the_mean_is_of_rows_that_hold_something() -> None:
    weight = torch.full((20_000, 4), 3.0)
    weight[:6_000] = 1e-22
    weight[9_000:15_000] = 2.0
    assert torch.allclose(average_row(weight, 20_000), torch.tensor(8 * 3.0 / 14 + 6 * 2.0 / 14))
    assert torch.allclose(average_row(weight.bfloat16(), 13_000), torch.tensor(17 / 7))
    with pytest.raises(PadfixError, match="there is no mean"):
        average_row(torch.zeros(8, 4), 8)


def test_bad_input(tokenizer: Any) -> None:
    model = base()
    before = rows_of(model)
    rows: Any
    for rows, message in (("text", "no dataset"), (7, "no dataset"), ([{"messages": []}], "row 0"), ([7], "row 0")):
        with pytest.raises(PadfixError, match=message):
            mean_init_untrained(model, tokenizer, rows)
    with pytest.raises(PadfixError, match="among target_modules"):
        mean_init_untrained(model, tokenizer, lora={"target_modules": ["embed_tokens"]})
    with pytest.raises(PadfixError, match="a model is needed"):
        find_untrained(tokenizer, tokenizer)
    assert all(torch.equal(old, new) for old, new in zip(before, rows_of(model), strict=True))
    adapter = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(PadfixError, match="carries a PEFT adapter"):
        mean_init_untrained(adapter, tokenizer)


@pytest.mark.slow
def test_a_trl_run_trains_these_rows_and_the_new_ones(tmp_path: Any) -> None:
    model, tokenizer = base(tied=False), fresh_tokenizer("3.1-instruct")
    added = add_tokens(model, tokenizer, ["<tool>"], special=False)
    chats = [*CHATS, {"messages": [{"role": "user", "content": "<tool>"}, {"role": "assistant", "content": "<tool>"}]}]
    done = mean_init_untrained(model, tokenizer, chats, lora=added.lora)
    assert done.lora.trainable_token_indices["embed_tokens"] == [*USED, 128256]
    before = rows_of(model)
    trainer = build_trainer(
        model,
        tokenizer,
        chats,
        peft_config=done.lora,
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=9,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    complete_head(trainer.model)
    assert not [finding for finding in diagnose(trainer).findings if finding.code.startswith("EMB")]
    trainer.train()
    changed = torch.tensor([*USED, 128256])
    kept = torch.ones(128257, dtype=torch.bool)
    kept[changed] = False
    for old, new in zip(before, rows_of(trainer.model.merge_and_unload()), strict=True):
        assert torch.equal(new[kept], old[kept])
        moved = (new[changed] != old[changed]).any(1).tolist()
        assert moved[:2] + moved[3:] == [True] * 4  # no row of the data holds the third, <|eom_id|>
