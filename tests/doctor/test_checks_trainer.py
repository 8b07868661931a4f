"""The checks of a trainer and its model: each trap made through the real parts, found, healed, and its consequence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from llama_padfix import PadCollator, diagnose, prepare
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor.facts import ModelFacts, RowStatistics
from llama_padfix.doctor.findings import Finding
from llama_padfix.doctor.observe import trainer as observe_trainer
from llama_padfix.doctor.observe.model import observe_model
from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.runner import run_checks, select_checks
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import fresh_tokenizer
from tests.support.correct_setups import trl_template
from tests.support.runs import QUICK

CHATS = [
    {"messages": [{"role": "user", "content": "Why? " * n}, {"role": "assistant", "content": f"Because {n}."}]}
    for n in range(1, 5)
]
MINE = (
    *("PRC", "LOD001", "LOD002", "LOD003", "LOD004", "EMB003", "EMB004", "EMB005", "EMB006"),
    *("PCK002", "TPL005", "LBL020", "GEN004", "TRN002"),
)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    """A patched tokenizer and four encoded rows; nobody may change them."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    return tokenizer, prepare(tokenizer, tiny()).encode(Dataset.from_list(CHATS), progress=False)


def tiny(**overrides: Any) -> Any:
    model = make_tiny_llama("3.1-instruct", hidden_size=16, num_hidden_layers=1, **overrides)
    model.config.pad_token_id = model.generation_config.pad_token_id = 128001
    return model


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)


def plain(parts: Any, out: Path, model: Any = None, rows: Any = None, collator: Any = None, **more: Any) -> Any:
    return Trainer(
        model=model if model is not None else tiny(),
        args=TrainingArguments(str(out), **{**QUICK, "logging_nan_inf_filter": False, **more}),
        train_dataset=parts[1] if rows is None else rows,
        data_collator=collator or PadCollator(128001),
        processing_class=parts[0],
    )


def sft(parts: Any, out: Path, model: Any = None, rows: Any = None, **more: Any) -> Any:
    given = {name: more.pop(name) for name in ("peft_config", "data_collator", "eval_dataset") if name in more}
    return SFTTrainer(
        model=model if model is not None else tiny(),
        args=SFTConfig(str(out), **{**QUICK, "logging_nan_inf_filter": False, **more}),
        train_dataset=Dataset.from_list(CHATS) if rows is None else rows,
        processing_class=parts[0],
        **given,
    )


def findings(target: Any, code: str) -> list[Finding]:
    return list(diagnose(target, select=[code]).findings)


def marked(parts: Any) -> Any:
    """The same parts with a template that has `{% generation %}`."""
    tokenizer = copy_tokenizer(parts[0])
    tokenizer.chat_template = trl_template("llama3_training")
    return tokenizer, parts[1]


def the_finding(target: Any, code: str) -> Finding:
    [finding] = findings(target, code)
    assert finding.code == code
    return finding


# ---- precision


@pytest.mark.parametrize(
    ("capability", "arguments", "dtype", "said"),
    [
        ((7, 5), {"bf16": True}, "float32", "bf16=True, but "),
        ((7, 5), {}, "bfloat16", "weights are bfloat16, but "),
        ((8, 0), {"bf16": True}, "float32", None),
        ((7, 5), {}, "float32", None),
    ],
)
def test_prc001_emulated_bf16(
    capability: tuple[int, int],
    arguments: dict[str, Any],
    dtype: str,
    said: str | None,
    parts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = plain(parts, tmp_path, tiny().to(getattr(torch, dtype)), **arguments)
    assert not findings(trainer, "PRC001")  # on the CPU, where bf16 is somebody's choice
    monkeypatch.setattr(observe_trainer, "find_device", lambda trainer: torch.device("cuda", 0))
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": capability,
        "get_device_name": "Tesla T4",
        "is_initialized": False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    if capability >= (8, 0):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    if said is None:
        assert not findings(trainer, "PRC001")
        return
    finding = the_finding(trainer, "PRC001")
    assert said in finding.message and "Tesla T4" in finding.message
    assert [(change.target, change.safety) for change in finding.changes] == [("trainer.args.fp16", "manual")]


def test_prc002_fp16_trainable_weights(parts: Any, tmp_path: Path) -> None:
    trainer = plain(parts, tmp_path, tiny().half())
    trainer.args.fp16 = True  # as on a GPU, which TrainingArguments would ask for
    finding = the_finding(trainer, "PRC002")
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert finding.message.startswith(f"fp16=True, and {count} of {count} trainable parameters are float16")
    assert not findings(trainer, "PRC006")

    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(trainer.model.parameters())
    scaler.scale(next(trainer.model.parameters()).float().sum()).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(optimizer)
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.float()
        parameter.grad = None
    assert not findings(trainer, "PRC002")
    scaler.scale(next(trainer.model.parameters()).sum()).backward()
    scaler.unscale_(optimizer)


def test_prc002_frozen_float16_under_an_adapter_is_right(parts: Any, tmp_path: Path) -> None:
    model = get_peft_model(tiny().half(), lora())  # PEFT makes its own weights float32
    trainer = plain(parts, tmp_path, model)
    trainer.args.fp16, trainer.args.max_grad_norm = True, 0.3
    facts = observe_trainer.observe_trainer(trainer)
    assert set(facts.frozen_dtypes) == {"float16"} and set(facts.trainable_dtypes) == {"float32"}
    assert not findings(trainer, "PRC")


@pytest.mark.parametrize(
    ("arguments", "severities"),
    [
        ({"max_grad_norm": 0.0}, ["warning"]),
        ({"max_grad_norm": 5.0, "learning_rate": 5e-3}, ["warning", "warning"]),
        ({"max_grad_norm": 1.0}, ["note"]),
        ({"max_grad_norm": 0.3, "learning_rate": 2e-4}, []),
    ],
)
def test_prc003_fp16_with_loose_clipping(
    arguments: dict[str, Any], severities: list[str], parts: Any, tmp_path: Path
) -> None:
    trainer = plain(parts, tmp_path, **arguments)
    assert not findings(trainer, "PRC003")  # in float32
    trainer.args.fp16 = True
    found = findings(trainer, "PRC003")
    assert [finding.severity for finding in found] == severities
    for finding in found[:1]:
        assert f"max_grad_norm={arguments['max_grad_norm']}" in finding.message
        trainer.args.max_grad_norm = finding.changes[0].after
        trainer.args.learning_rate = 2e-4
        assert not findings(trainer, "PRC003")


def test_prc004_nan_logged_as_zero(parts: Any, tmp_path: Path) -> None:
    rows = parts[1].map(lambda row: {"labels": [-100] * len(row["input_ids"])})
    logged = []
    for hidden in (True, False):
        trainer = plain(parts, tmp_path, rows=rows, logging_nan_inf_filter=hidden)
        found = findings(trainer, "PRC004")
        assert [finding.severity for finding in found] == ["note"] * hidden
        trainer.train()
        logged.append(trainer.state.log_history[0]["loss"])
    assert logged[0] == 0.0 and logged[1] != logged[1]


EARLIER = """
import os
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from llama_padfix import PadCollator, diagnose
from llama_padfix.demo.reference import make_tiny_llama
model = make_tiny_llama(hidden_size=16, num_hidden_layers=1)
rows = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 4)
def make(**more):
    quiet = dict(use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, max_steps=1)
    args = TrainingArguments("out", **quiet, **more)
    return Trainer(model=model, args=args, train_dataset=rows, data_collator=PadCollator(128001))
def show(trainer):
    report = diagnose(trainer, select=["PRC005"])
    assert not report.skipped, report
    print([finding.message.split(",")[0] for finding in report.findings])

os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
of_the_environment = make()
show(of_the_environment)
os.environ["ACCELERATE_DYNAMO_BACKEND"] = "no"  # as `accelerate launch --mixed_precision bf16`
show(of_the_environment)

del os.environ["ACCELERATE_MIXED_PRECISION"], os.environ["ACCELERATE_DYNAMO_BACKEND"]
AcceleratorState._reset_state(True)
first = make(bf16=True)
show(first)
first.train()
show(first)
AcceleratorState._reset_state(True)
second = make()
show(second)
seen = []
model.lm_head.register_forward_hook(lambda module, given, out: seen.append(str(out.dtype)))
second.train()
print(seen[0])
second.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
show(second)
"""


def in_its_own_process(code: str, folder: Path) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("{")]


@pytest.mark.slow
def test_prc005_autocast_of_an_earlier_trainer(tmp_path: Path) -> None:
    assert in_its_own_process(EARLIER, folder=tmp_path) == [
        *("['This trainer computes in bf16']", "[]"),
        "[]",
        "[]",
        '["The model\'s forward still computes in bfloat16"]',
        "torch.bfloat16",
        "[]",
    ]


def test_prc006_float16_weights_without_scaler(parts: Any, tmp_path: Path) -> None:
    trainer = plain(parts, tmp_path, tiny().half(), max_grad_norm=0.0, optim="adamw_torch")
    finding = the_finding(trainer, "PRC006")
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert finding.message.startswith(f"{count} trainable parameters are float16") and "1e-08" in finding.message
    trainer.train()
    assert any(parameter.isnan().any() for parameter in trainer.model.parameters())
    fused = plain(parts, tmp_path, tiny().half(), optim="adamw_torch_fused")
    assert findings(fused, "PRC006")
    fused.train()
    assert bool((fused.model.model.norm.weight == 1).all())  # a step of 5e-5 is lost beside 1
    whole = plain(parts, tmp_path, tiny(), max_grad_norm=0.0)
    assert not findings(whole, "PRC006")
    whole.train()
    assert not any(parameter.isnan().any() for parameter in whole.model.parameters())
    assert bool((whole.model.model.norm.weight != 1).all())


# ---- loading


def test_lod001_attention_not_available(parts: Any, tmp_path: Path) -> None:
    model = tiny()
    assert not findings((parts[0], model), "LOD001")
    with pytest.raises(ImportError, match=r"FlashAttention|flash_attn|flash-attn"):
        model.set_attn_implementation("flash_attention_2")
    model.config._attn_implementation_internal = "flash_attention_2"  # as a saved config brings it
    assert "its package is not installed" in the_finding((parts[0], model), "LOD001").message
    finding = the_finding(plain(parts, tmp_path, model), "LOD001")
    for fault in ("not installed", "runs on a CPU", "float16 and bfloat16 only, and the model is float32"):
        assert fault in finding.message
    with pytest.raises(Exception):  # noqa: B017 - whatever the missing kernel raises
        model(torch.tensor([[1, 2]]))
    model.set_attn_implementation(finding.changes[0].after)
    assert not findings((parts[0], model), "LOD001")
    model(torch.tensor([[1, 2]]))


def test_lod001_judges_the_gpu(parts: Any, tmp_path: Path) -> None:
    facts = observe_tokenizer(parts[0], tiny())
    trainer = observe_trainer.observe_trainer(plain(parts, tmp_path))
    on_gpu = replace(trainer, device_type="cuda", device_name="Tesla T4", device_capability=(7, 5))

    def said(attention: str, trainer: Any) -> list[str]:
        assert facts.model is not None
        model = replace(facts.model, attention=attention, attention_installed=True, floating_dtypes=("bfloat16",))
        found = run_checks(replace(facts, model=model, trainer=trainer), select_checks(["LOD001"])).findings
        return [finding.message for finding in found]

    assert "Tesla T4 has compute capability 7.5, it needs 8.0" in said("flash_attention_2", on_gpu)[0]
    assert said("flash_attention_2", replace(on_gpu, device_capability=(8, 6))) == []
    assert "it needs 9.0" in said("flash_attention_3", replace(on_gpu, device_capability=(8, 6)))[0]
    assert said("sdpa", on_gpu) == []


@pytest.mark.slow
def test_lod002_effective_batch_may_change(parts: Any, tmp_path: Path) -> None:
    sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    rows = Dataset.from_list([dict(row) for row in parts[1]] * 16)
    trainer = plain(parts, tmp_path, rows=rows, auto_find_batch_size=True, **sizes)
    finding = the_finding(trainer, "LOD002")
    assert "8 rows a device" in finding.message and "4 accumulation steps" in finding.message
    assert "effective batch of 32" in finding.message
    taken: list[int] = []
    forward = trainer.compute_loss

    def short_of_memory(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        if len(inputs["input_ids"]) > 4:
            raise RuntimeError("CUDA out of memory.")
        taken.append(len(inputs["input_ids"]))
        return forward(model, inputs, *rest, **more)

    trainer.compute_loss = short_of_memory
    trainer.train()
    assert 0 < sum(taken) < 32  # rows of the one step that was asked for
    assert not findings(plain(parts, tmp_path, **sizes), "LOD002")


def test_lod003_fewer_processes(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = plain(parts, tmp_path)
    assert not findings(trainer, "LOD003")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "announced 2 processes, and the trainer runs with 1" in the_finding(trainer, "LOD003").message
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not findings(trainer, "LOD003")


LAUNCHED = """
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from llama_padfix import PadCollator, diagnose
from llama_padfix.demo.reference import make_tiny_llama
rows = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 4)
args = TrainingArguments("out", use_cpu=True, report_to=[])
trainer = Trainer(make_tiny_llama(hidden_size=16, num_hidden_layers=1), args, PadCollator(128001), rows)
print([finding.message.split(":")[0] for finding in diagnose(trainer, select=["LOD003"]).findings])
"""


def test_trn002_gradients_divided_twice(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = plain(parts, tmp_path, gradient_accumulation_steps=4)
    trainer.accelerator.gradient_accumulation_steps = 4  # as the Trainer of transformers 5.2 to 5.5 sets it
    finding = the_finding(trainer, "TRN002")
    assert "gradient_accumulation_steps=4" in finding.message and "1/4 of what they should be" in finding.message
    [change] = finding.changes
    assert (change.before, change.after, change.safety) == (4, 1, "manual")
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)  # it does its own dividing
    assert not findings(trainer, "TRN002")
    monkeypatch.undo()
    exec(finding.message.rpartition("Run: ")[2], {"trainer": trainer})
    assert not findings(trainer, "TRN002")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="only Linux tells who started a process")
@pytest.mark.slow
def test_lod003_two_processes_that_are_one(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LAUNCHED)
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes"]
    command = [*launch, "2", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['The launcher announced 2 processes, and the trainer runs with 1']"


def test_lod003_sharding_that_is_none(parts: Any, tmp_path: Path) -> None:
    trainer = plain(parts, tmp_path)
    trainer.args.fsdp = "full_shard"
    assert "fsdp= is set, and the trainer runs as NO with 1 process(es)" in the_finding(trainer, "LOD003").message


def test_lod004_batches_cannot_be_drawn(parts: Any, tmp_path: Path) -> None:
    text = Dataset.from_list([{"text": "Hello."}] * 4)
    trainer = plain(parts, tmp_path, rows=text)
    finding = the_finding(trainer, "LOD004")
    assert finding.message.startswith("Drawing a train batch raised at the first batch: ")
    with pytest.raises(Exception) as raised:  # training raises the same
        trainer.train()
    assert str(raised.value) in finding.message
    report = diagnose(trainer)
    assert report.skipped["LBL001"].startswith("no rows of the train batch: it raised ")

    uneven = [dict(row) for row in parts[1]] * 2
    uneven[5] = {"input_ids": [1, 2, 3], "labels": [1]}
    trainer = plain(parts, tmp_path, rows=uneven, train_sampling_strategy="sequential")
    assert "raised after 2 rows: " in the_finding(trainer, "LOD004").message
    assert diagnose(trainer).samples[0].seen == 2  # accelerate reads a batch ahead
    assert "LBL001" in diagnose(trainer).passed


# ---- the embedding


def grown(tokens: int = 2, tied: bool = True, folder: Path | None = None, **resize: Any) -> tuple[Any, Any]:
    """A tokenizer with tokens more and a model resized for them, loaded from a checkpoint where a folder is given."""
    tokenizer, model = fresh_tokenizer("3.1-instruct"), tiny(tie_word_embeddings=tied)
    if folder is not None:
        model.save_pretrained(folder)
        model = type(model).from_pretrained(folder)
    prepare(tokenizer, model)
    tokenizer.add_tokens([f"<tool{i}>" for i in range(tokens)])
    model.resize_token_embeddings(len(tokenizer), **resize)
    return tokenizer, model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_emb003_added_rows_not_trained() -> None:
    tokenizer, model = grown()
    assert not findings((tokenizer, model), "EMB003")  # a whole model trains them
    before = model.get_input_embeddings().weight[128256:].detach().clone()
    model = get_peft_model(model, lora())
    finding = the_finding((tokenizer, model), "EMB003")
    assert "2 added tokens" in finding.message and "'<tool0>' (128256), '<tool1>' (128257)" in finding.message
    loss = model(input_ids=torch.tensor([[1, 128256]]), labels=torch.tensor([[1, 128256]])).loss
    loss.backward()
    assert model.get_input_embeddings().weight.grad is None
    assert torch.equal(model.get_input_embeddings().weight[128256:], before)

    tokenizer, model = grown()
    model = get_peft_model(model, lora(trainable_token_indices={"embed_tokens": [128256, 128257]}))
    assert not findings((tokenizer, model), "EMB003")
    tokenizer, model = grown()
    model = get_peft_model(model, lora(trainable_token_indices={"embed_tokens": [128256]}))
    assert "1 added tokens" in the_finding((tokenizer, model), "EMB003").message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_emb003_knows_the_checkpoint_and_the_head(tmp_path: Path) -> None:
    tokenizer, model = grown(folder=tmp_path, mean_resizing=False)  # rows that look like any other
    assert observe_model(model).original_rows == 128256
    assert "<tool0>" in the_finding((tokenizer, get_peft_model(model, lora())), "EMB003").message
    tokenizer, model = grown(tied=False)
    model = get_peft_model(model, lora(trainable_token_indices={"embed_tokens": [128256, 128257]}))
    assert "rows of the output head" in the_finding((tokenizer, model), "EMB003").message
    tokenizer, model = grown(tied=False)
    model = get_peft_model(model, lora(modules_to_save=["embed_tokens", "lm_head"]))
    assert not findings((tokenizer, model), "EMB003")
    assert [finding.severity for finding in findings((tokenizer, model), "EMB005")] == ["note"]


def test_emb003_is_silent_on_a_pad_token_that_was_added() -> None:
    tokenizer, model = grown(tokens=0)
    tokenizer.add_special_tokens({"pad_token": "<my_pad>"})
    model.resize_token_embeddings(len(tokenizer))
    assert not findings((tokenizer, get_peft_model(model, lora())), "EMB003")


def blank_rows(model: Any, value: float = 0.0) -> None:
    with torch.no_grad():
        for token_id in range(128002, 128256):
            model.get_input_embeddings().weight[token_id] = value


@pytest.mark.parametrize("value", [0.0, 1e-23, 0.01])
def test_emb004_untrained_rows(value: float) -> None:
    tokenizer, model = fresh_tokenizer("3.1-instruct"), tiny()
    assert not findings((tokenizer, model), "EMB004")
    blank_rows(model, value)  # as the base models of Llama 3 come; 0.01: all alike
    finding = the_finding((tokenizer, model), "EMB004")
    assert finding.severity == "warning" and "uses 4 tokens" in finding.message
    assert "<|eot_id|> (128009: " + ("the same as another)" if value == 0.01 else "zero)") in finding.message
    without = fresh_tokenizer("3.1-base")
    assert not findings((without, model), "EMB004")  # no template uses them

    adapter = get_peft_model(model, lora())
    finding = the_finding((tokenizer, adapter), "EMB004")
    assert finding.severity == "error" and "does not train 4 of them" in finding.message
    mean = model.get_input_embeddings().weight[:128000].mean(0)
    with torch.no_grad():
        for offset, token_id in enumerate((128006, 128007, 128008, 128009)):
            model.get_input_embeddings().weight[token_id] = mean + 1e-3 * offset
    assert not findings((tokenizer, adapter), "EMB004")


def test_emb004_is_silent_on_rows_of_every_ordinary_kind() -> None:
    tokenizer = fresh_tokenizer("3.1-instruct")
    torch.manual_seed(0)
    for scale, mean, dtype in ((0.02, 0.0, "float32"), (0.01, 0.005, "bfloat16"), (1.0, 0.0, "float16")):
        model = tiny()
        weight = torch.randn_like(model.get_input_embeddings().weight) * scale + mean
        weight *= torch.rand(weight.shape[0], 1) + 0.3  # real rows differ in length
        model.get_input_embeddings().weight.data = weight
        assert not findings((tokenizer, model.to(getattr(torch, dtype))), "EMB004")


@pytest.mark.filterwarnings("ignore")
def test_emb006_tied_weights_come_apart() -> None:
    tokenizer, model = fresh_tokenizer("3.1-instruct"), tiny()
    assert not findings((tokenizer, get_peft_model(tiny(), lora())), "EMB006")
    apart = get_peft_model(model, lora(modules_to_save=["embed_tokens"]))
    assert "trains a copy of the embedding, and the head stays" in the_finding((tokenizer, apart), "EMB006").message
    assert "128256 rows" in the_finding((tokenizer, apart), "EMB005").message
    copied = apart.get_input_embeddings().modules_to_save["default"].weight
    assert copied.data_ptr() != apart.get_output_embeddings().weight.data_ptr()
    whole = tiny(tie_word_embeddings=False)
    assert not findings((tokenizer, get_peft_model(whole, lora(modules_to_save=["embed_tokens"]))), "EMB006")
    held = get_peft_model(tiny(), lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True))
    assert not findings((tokenizer, held), "EMB006")


def test_rows_that_cannot_be_read_are_not_judged() -> None:
    with torch.device("meta"):
        model = tiny()
    facts = observe_model(model, [128009])
    assert facts.rows == {} and facts.embedding_rows == 128256
    assert isinstance(facts, ModelFacts)
    assert observe_model(tiny(), [128009]).rows.keys() == {128009}
    assert isinstance(observe_model(tiny(), [128009]).rows[128009], RowStatistics)


# ---- packing, labels, saving


def test_pck002_packing_without_isolation(parts: Any, tmp_path: Path) -> None:
    packed = {"packing": True, "max_length": 64}
    wrapped = sft(parts, tmp_path, packing_strategy="wrapped", **packed)
    finding = the_finding(wrapped, "PCK002")
    assert finding.severity == "warning" and finding.changes[0].after == "bfd"
    bfd = sft(parts, tmp_path, packing_strategy="bfd", **packed)
    assert not findings(bfd, "PCK002")
    model = bfd.model.eval()
    ids, places = torch.tensor([[11, 12, 13, 21, 22]]), torch.tensor([[0, 1, 2, 0, 1]])
    alone = model(input_ids=ids[:, 3:]).logits
    assert torch.allclose(model(input_ids=ids, position_ids=places).logits[:, 3:], alone, atol=1e-5)
    assert not torch.allclose(model(input_ids=ids).logits[:, 3:], alone, atol=1e-5)  # what `wrapped` does


def test_pck002_knows_older_transformers(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    trainer = sft(parts, tmp_path, packing=True, max_length=64)
    monkeypatch.delattr(masking_utils, "find_packed_sequence_indices")
    finding = the_finding(trainer, "PCK002")
    assert finding.severity == "error" and "packing=True with sdpa attention" in finding.message


@pytest.mark.slow
def test_tpl005_assistant_only_loss_without_effect(parts: Any, tmp_path: Path) -> None:
    parts = marked(parts)
    rows = Dataset.from_list(
        [{**chat, "input_ids": row["input_ids"]} for chat, row in zip(CHATS, parts[1], strict=True)]
    )
    trainer = sft(parts, tmp_path, rows=rows, assistant_only_loss=True, dataset_kwargs={"skip_prepare_dataset": True})
    assert "assistant_only_loss=True has no effect" in the_finding(trainer, "TPL005").message
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] != -100).sum() == batch["attention_mask"].sum()
    obeyed = sft(marked(parts), tmp_path, assistant_only_loss=True)
    assert not findings(obeyed, "TPL005")
    batch = next(iter(obeyed.get_train_dataloader()))
    assert 0 < (batch["labels"] != -100).sum() < batch["attention_mask"].sum()


def test_lbl020_collator_overwrites_labels(parts: Any, tmp_path: Path) -> None:
    collator = DataCollatorForLanguageModeling(parts[0], mlm=False)
    trainer = plain(parts, tmp_path, collator=collator, per_device_train_batch_size=1)
    trainer.args.train_sampling_strategy = "sequential"
    finding = the_finding(trainer, "LBL020")
    assert "DataCollatorForLanguageModeling replaces them" in finding.message
    batch = next(iter(trainer.get_train_dataloader()))
    given = sum(label != -100 for row in parts[1].select(range(1)) for label in row["labels"])
    assert (batch["labels"] != -100).sum() > given
    trainer.data_collator = PadCollator(128001)
    assert not findings(trainer, "LBL020")
    whole = parts[1].map(lambda row: {"labels": row["input_ids"]})
    assert not findings(plain(parts, tmp_path, rows=whole, collator=collator), "LBL020")  # the same labels
    bare = parts[1].remove_columns("labels")
    assert not findings(plain(parts, tmp_path, rows=bare, collator=collator), "LBL020")


def test_gen004_generation_config_cannot_be_saved(parts: Any, tmp_path: Path) -> None:
    model = tiny()
    assert not findings((parts[0], model), "GEN004")
    model.generation_config.do_sample, model.generation_config.temperature = False, 0.6
    trainer = plain(parts, tmp_path, model)
    assert "temperature" in the_finding(trainer, "GEN004").message
    with pytest.raises(ValueError, match="temperature"):
        trainer.save_model(str(tmp_path / "saved"))
    model.generation_config.do_sample = True
    assert not findings(trainer, "GEN004")
    trainer.save_model(str(tmp_path / "saved"))


# ---- no false alarm


def covered(parts: Any, out: Path, **settings: Any) -> Any:
    tokenizer, model = grown(tied="lm_head" not in settings.get("modules_to_save", ()))
    rows = prepare(tokenizer, model).encode(Dataset.from_list(CHATS), progress=False)
    return plain((tokenizer, rows), out, get_peft_model(model, lora(**settings)))


CORRECT: dict[str, Callable[[Any, Path], Any]] = {
    "plain": plain,
    "gradient checkpointing": lambda parts, out: plain(parts, out, gradient_checkpointing=True),
    "accumulation": lambda parts, out: plain(parts, out, gradient_accumulation_steps=4, learning_rate=5e-3),
    "eager": lambda parts, out: plain(parts, out, tiny(attn_implementation="eager")),
    "bf16 weights and adapter": lambda parts, out: plain(parts, out, get_peft_model(tiny().bfloat16(), lora())),
    "bf16 weights": lambda parts, out: plain(parts, out, tiny().bfloat16()),
    "untied": lambda parts, out: plain(parts, out, tiny(tie_word_embeddings=False)),
    "stream": lambda parts, out: plain(parts, out, rows=parts[1].to_iterable_dataset()),
    "list of rows": lambda parts, out: plain(parts, out, rows=[dict(row) for row in parts[1]]),
    "lora": lambda parts, out: plain(parts, out, get_peft_model(tiny(), lora())),
    "lora on all layers": lambda parts, out: plain(
        parts, out, get_peft_model(tiny(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    ),
    "lora over float16": lambda parts, out: plain(parts, out, get_peft_model(tiny().half(), lora())),
    "lora with rows covered": lambda parts, out: covered(
        parts, out, trainable_token_indices={"embed_tokens": [128256, 128257]}
    ),
    "lora with modules saved": lambda parts, out: covered(parts, out, modules_to_save=["embed_tokens", "lm_head"]),
    "sft": sft,
    "sft assistant only": lambda parts, out: sft(marked(parts), out, assistant_only_loss=True),
    "sft with an adapter and eval": lambda parts, out: sft(
        parts, out, peft_config=lora(), eval_dataset={"a": Dataset.from_list(CHATS[:2])}
    ),
    "sft packing": lambda parts, out: sft(parts, out, packing=True, max_length=64),
    "sft packing eager": lambda parts, out: sft(
        parts, out, tiny(attn_implementation="eager"), packing=True, max_length=64
    ),
    "sft padding free": lambda parts, out: sft(parts, out, padding_free=True, max_length=None),
    "sft stream": lambda parts, out: sft(parts, out, rows=IterableDataset.from_generator(lambda: iter(CHATS))),
    "base language model": lambda parts, out: plain(
        parts,
        out,
        rows=parts[1].remove_columns("labels"),
        collator=DataCollatorForLanguageModeling(parts[0], mlm=False),
    ),
    "dpo": lambda parts, out: DPOTrainer(
        model=tiny(),
        args=DPOConfig(str(out), **{**QUICK, "logging_nan_inf_filter": False}),
        train_dataset=Dataset.from_list([{"prompt": "Why?", "chosen": " Because.", "rejected": " No."}] * 3),
        processing_class=parts[0],
        peft_config=lora(),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CORRECT)
@pytest.mark.slow
def test_a_correct_trainer_is_not_blamed(name: str, parts: Any, tmp_path: Path) -> None:
    report = diagnose(CORRECT[name](parts, tmp_path), select=MINE)
    assert [str(finding) for finding in report.findings if finding.severity != "note"] == []
    raised = [reason for reason in report.skipped.values() if "raised" in reason]
    assert raised == []
    assert {"PRC002", "LOD003", "GEN004", "EMB003"} <= set(report.passed)
