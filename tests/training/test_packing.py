"""Packing on real models: documents stay apart, or rows are padded; and a packed run trains what a padded run does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig

from llama_padfix import PadCollator, PadfixError, build_trainer, diagnose, prepare
from llama_padfix.core.compat import converts_weights
from llama_padfix.encoding.packing import isolation
from llama_padfix.encoding.packing.collator import PackCollator
from llama_padfix.encoding.packing.isolation import try_packing
from tests.support.small_llama import small_model, small_tokenizer

of_today = pytest.mark.skipif(not converts_weights(), reason="the table is that of transformers 5")
CHATS = [
    {"messages": [{"role": "user", "content": "q" * (13 * n % 80)}, {"role": "assistant", "content": f"answer {n}"}]}
    for n in range(12)
]
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_model(family: str, attention: str, **settings: Any) -> Any:
    config = AutoConfig.for_model(family, **{**SMALL, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


WINDOW = {"sliding_window": 8, "head_dim": 8}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
ISOLATED = [
    ("llama", "sdpa", {}),
    ("llama", "eager", {}),
    ("qwen3", "sdpa", {"head_dim": 8}),
    ("mistral", "sdpa", WINDOW),
    ("mistral", "eager", WINDOW),
    ("gemma3_text", "sdpa", WINDOW),
    ("gemma3_text", "eager", WINDOW),
    ("qwen3", "eager", {"head_dim": 8}),
    ("phi3", "sdpa", {}),
    ("phi3", "eager", {}),
    ("granite", "sdpa", {}),
    ("granite", "eager", {}),
    ("mixtral", "sdpa", EXPERTS),
    ("mixtral", "eager", EXPERTS),
    ("deepseek_v3", "sdpa", LATENT),
    ("deepseek_v3", "eager", LATENT),
    ("gpt2", "sdpa", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    ("gpt2", "eager", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
]
LEAKING = [
    ("gpt_oss", "eager", {**WINDOW, **EXPERTS}),
    ("falcon", "sdpa", {}),
    ("falcon", "eager", {}),
    ("falcon_h1", "sdpa", {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8}),
    ("lfm2", "sdpa", {"layer_types": ["conv", "full_attention"]}),
    ("mamba2", "eager", {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "state_size": 8}),
]


@of_today
@pytest.mark.parametrize(("family", "attention", "settings"), ISOLATED, ids=lambda value: value if value else "")
def test_families_that_keep_documents_apart_are_packed(family: str, attention: str, settings: dict[str, Any]) -> None:
    model = make_model(family, attention, **settings).train()
    found = try_packing(model, 0)
    assert found.layout == "rows", found
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@of_today
@pytest.mark.parametrize(("family", "attention", "settings"), LEAKING, ids=lambda value: value if value else "")
def test_families_whose_documents_see_one_another_are_padded(
    family: str, attention: str, settings: dict[str, Any]
) -> None:
    found = try_packing(make_model(family, attention, **settings), 0)
    assert found.layout is None and "so rows are not packed but padded" in found.reason


@of_today
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_decides_alike(dtype: torch.dtype) -> None:
    assert try_packing(make_model("llama", "sdpa").to(dtype), 0).layout == "rows"
    assert try_packing(make_model("falcon", "sdpa").to(dtype), 0).layout is None


class LateCollator(PackCollator):
    """Positions that begin at 3 in each document."""

    def __call__(self, rows: Any) -> Any:
        batch = super().__call__(rows)
        return {**batch, "position_ids": batch["position_ids"] + 3}


@of_today
def test_documents_that_are_apart_at_other_positions_are_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "PackCollator", LateCollator)
    model = make_model("gpt2", "sdpa", n_embd=32, n_layer=2, n_head=4)
    difference, leak = isolation.measure_isolation(model, LateCollator(0))
    assert difference > 0.1 and leak == 0
    assert try_packing(model, 0).layout is None


def test_rows_are_padded_where_packing_would_leak(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = small_tokenizer()
    model = make_model("falcon", "sdpa", vocab_size=len(tokenizer))
    prepared = prepare(tokenizer, model, max_length=512, packing=True)
    assert prepared.packing is not None and prepared.packing.layout is None
    assert isinstance(prepared.collator, PadCollator) and "so rows are not packed but padded" in caplog.text
    rows = prepared.encode(CHATS, progress=False)
    assert len(rows) == len(CHATS) and rows.column_names == ["input_ids", "labels"]


def loss_and_gradient(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Return the mean over trained tokens, and its gradient at all weights."""
    model = copy.deepcopy(model)
    labels = batch.pop("labels")
    count = (labels[:, 1:] != -100).sum()
    logits = model(**batch).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / count
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_what_prepare_decides_has_the_loss_and_the_gradient_of_a_padded_batch() -> None:
    """With any version: where the installed one lets packed documents see one another, rows are padded."""
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    padded = prepare(tokenizer, model, max_length=512)
    chosen = prepare(tokenizer, model, max_length=512, packing=True)
    results = [
        loss_and_gradient(model, prepared.collator(list(prepared.encode(CHATS, progress=False))))
        for prepared in (padded, chosen)
    ]
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    assert torch.allclose(results[1][1], results[0][1], atol=1e-6 + 1e-5 * float(results[0][1].abs().max()))


@of_today
@pytest.mark.parametrize("layout", ["rows", "flat"])
def test_a_packed_batch_has_the_loss_and_the_gradient_of_a_padded_one(layout: Any) -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    padded = prepare(tokenizer, model, max_length=512)
    packed = prepare(tokenizer, model, max_length=512, packing=True)
    loss, gradient = loss_and_gradient(model, padded.collator(list(padded.encode(CHATS, progress=False))))
    rows = packed.encode(CHATS, progress=False)
    assert len(rows) < len(CHATS) / 2
    collator = PackCollator(tokenizer.pad_token_id, layout)
    own_loss, own_gradient = loss_and_gradient(model, collator(list(rows)))
    assert own_loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(own_gradient, gradient, atol=1e-6 + 1e-5 * float(gradient.abs().max()))


def train_one_step(folder: Path, rows: list[Any], **given: Any) -> tuple[float, torch.Tensor, Any]:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    trainer = build_trainer(
        model,
        tokenizer,
        rows,
        output_dir=str(folder),
        max_steps=1,
        optim="sgd",
        learning_rate=0.1,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        max_length=512,
        use_cpu=True,
        **given,
    )
    trainer.train()
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    return trainer.state.log_history[0]["loss"], weights, trainer


@of_today
def test_a_packed_run_of_trl_makes_the_update_of_a_padded_one(tmp_path: Path) -> None:
    loss, weights, _ = train_one_step(tmp_path, CHATS, per_device_train_batch_size=12)
    own_loss, own_weights, trainer = train_one_step(tmp_path, CHATS, per_device_train_batch_size=12, packing=True)
    assert len(trainer.train_dataset) < len(CHATS) / 2
    assert own_loss == pytest.approx(loss, rel=1e-4)  # logged with four digits
    assert torch.allclose(own_weights, weights, atol=1e-6)
    report = diagnose(trainer)
    assert [finding for finding in report.findings if finding.severity != "note"] == []


@of_today
def test_a_plain_trainer_trains_on_packed_rows(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    prepared = prepare(tokenizer, model, max_length=512, packing=True, device="cpu")
    args = TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True, **prepared.trainer_args
    )
    rows = prepared.encode(CHATS, progress=False)
    trainer = Trainer(model, args, train_dataset=rows, data_collator=prepared.collator)
    assert trainer.train().training_loss > 0
    args.remove_unused_columns = True
    with pytest.raises(PadfixError, match="has no seq_lengths"):
        Trainer(model, args, train_dataset=rows, data_collator=prepared.collator).train()


def test_batches_of_like_length_hold_little_padding(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    prepared = prepare(tokenizer, model, max_length=512, group_by_length=True, device="cpu")
    rows = prepared.encode([row for row in CHATS for _ in range(20)], progress=False)
    assert isinstance(rows, Dataset) and [*rows["length"]] == [len(row["input_ids"]) for row in rows]
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, report_to=[], use_cpu=True, **prepared.trainer_args
    )
    trainer = Trainer(model, args, train_dataset=rows, data_collator=prepared.collator)
    masks = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
    positions = sum(mask.numel() for mask in masks)
    assert positions <= 1.05 * float(sum(mask.sum() for mask in masks))


@of_today
def test_a_config_that_exists_takes_what_a_run_needs(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    prepared = prepare(tokenizer, small_model(tokenizer), max_length=512, packing=True, device="cpu")
    args = SFTConfig(str(tmp_path), packing=True, use_cpu=True, report_to=[], max_grad_norm=5.0)
    prepared.apply_to(args)
    assert args.packing is False and args.remove_unused_columns is False
    assert args.dataset_kwargs == {"skip_prepare_dataset": True}
    assert {name: getattr(args, name) for name in prepared.training_args} == prepared.training_args


def test_a_config_that_packs_while_rows_are_padded_is_refused(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    prepared = prepare(tokenizer, max_length=512, device="cpu")
    args = SFTConfig(str(tmp_path), packing=True, use_cpu=True, report_to=[])
    before = dict(vars(args))
    with pytest.raises(PadfixError, match=r"packing=True is in the config.*packing=True, max_length=512"):
        prepared.apply_to(args)
    assert vars(args) == before


def test_a_config_whose_checks_fail_is_left_as_it_was(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    prepared = prepare(tokenizer, max_length=512, device="cpu")
    args = SFTConfig(str(tmp_path), use_cpu=True, report_to=[])
    args.lr_scheduler_type = "no such schedule"
    before = dict(vars(args))
    with pytest.raises(ValueError, match="no such schedule"):
        prepared.apply_to(args)
    assert vars(args) == before


class MaskedCollator(PackCollator):
    """Packed batches with a block mask beside the positions, as a caller might build it."""

    form = "float"

    def __call__(self, rows: Any) -> Any:
        batch = super().__call__(rows)
        documents = (batch["position_ids"] == 0).cumsum(-1)
        places = torch.arange(documents.shape[1])
        seen = (documents[:, :, None] == documents[:, None, :]) & (places[:, None] >= places)

        def write(seen: torch.Tensor) -> torch.Tensor:
            return seen[:, None] if self.form == "bool" else torch.where(seen, 0.0, -1e9)[:, None]

        near = seen & (places[:, None] - places < WINDOW["sliding_window"])
        mask = (
            {"full_attention": write(seen), "sliding_attention": write(near)} if self.form == "dict" else write(seen)
        )
        return {**batch, "attention_mask": mask}


@of_today
@pytest.mark.parametrize(
    ("family", "attention", "settings", "form", "apart"),
    [
        ("falcon", "sdpa", {}, "float", True),
        ("falcon", "eager", {}, "float", True),
        ("falcon", "eager", {}, "bool", False),  # added to the scores
        ("mistral", "sdpa", WINDOW, "float", False),  # in place of the window
        ("gpt_oss", "eager", {**WINDOW, **EXPERTS}, "float", False),
        ("gpt_oss", "eager", {**WINDOW, **EXPERTS}, "dict", True),
        ("lfm2", "sdpa", {"layer_types": ["conv", "full_attention"]}, "float", False),
    ],
)
def test_what_a_block_mask_would_keep_apart(
    family: str, attention: str, settings: dict[str, Any], form: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of docs/packing.md that says why none is built."""
    monkeypatch.setattr(MaskedCollator, "form", form)
    difference, leak = isolation.measure_isolation(make_model(family, attention, **settings), MaskedCollator(0))
    assert (difference < 1e-5 and leak < 1e-6) == apart, (difference, leak)


@of_today
def test_trl_takes_no_mask_for_each_kind_of_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_tokenizer()
    model = make_model("gpt_oss", "eager", vocab_size=len(tokenizer), **WINDOW, **EXPERTS)
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8], "seq_lengths": [2, 2]}] * 4
    settings: dict[str, Any] = {"max_steps": 1, "report_to": [], "use_cpu": True, "save_strategy": "no"}
    settings["output_dir"] = str(tmp_path)
    monkeypatch.setattr(MaskedCollator, "form", "dict")
    trainer = build_trainer(
        model, tokenizer, rows, data_collator=MaskedCollator(0), remove_unused_columns=False, **settings
    )
    with pytest.raises(AttributeError, match="'dict' object has no attribute"):
        trainer.train()
