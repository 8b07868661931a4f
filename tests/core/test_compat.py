"""Each difference between versions is found in what is installed, and named rightly in older and newer shapes."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import tokenizers
import torch
import transformers
import trl
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Trainer, TrainingArguments

from llama_padfix import PadfixError, add_tokens, diagnose, load, prepare
from llama_padfix.core import compat
from llama_padfix.demo.reference import make_tiny_llama
from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.runner import run_checks, select_checks
from tests.conftest import fresh_tokenizer
from tests.support.saved import save, small_model, small_tokenizer


class Old:
    """Arguments as transformers 4.43 has them."""

    def __init__(
        self,
        warmup_steps: int = 0,
        warmup_ratio: float = 0.0,
        group_by_length: bool = False,
        evaluation_strategy: str = "no",
        gradient_checkpointing: bool = False,
        gradient_checkpointing_kwargs: Any = None,
        no_cuda: bool = False,
    ) -> None:
        pass


class Between:
    """Arguments as transformers 5.0 has them: the ratio is still taken, and warned of."""

    def __init__(self, warmup_steps: float = 0, warmup_ratio: float | None = None) -> None:
        pass


class New:
    """Arguments as transformers 5.23 has them, without the names that are on their way out."""

    def __init__(
        self,
        warmup_steps: float = 0,
        train_sampling_strategy: str = "random",
        eval_strategy: str = "no",
        activation_checkpointing: bool | None = None,
        activation_checkpointing_kwargs: Any = None,
        use_cpu: bool = False,
    ) -> None:
        pass


BOTH_WAYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
    ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
    ({"evaluation_strategy": "steps"}, {"eval_strategy": "steps"}),
    ({"gradient_checkpointing": True}, {"activation_checkpointing": True}),
    ({"gradient_checkpointing_kwargs": {"a": 1}}, {"activation_checkpointing_kwargs": {"a": 1}}),
    ({"no_cuda": True}, {"use_cpu": True}),
    ({"warmup_steps": 5}, {"warmup_steps": 5}),
]


@pytest.mark.parametrize(("old", "new"), BOTH_WAYS)
def test_a_keyword_reaches_older_and_newer_versions_under_their_name(old: Any, new: Any) -> None:
    assert compat.rename_arguments(old, New) == compat.rename_arguments(new, New) == new
    assert compat.rename_arguments(old, Old) == compat.rename_arguments(new, Old) == old


def test_a_ratio_becomes_steps_where_the_ratio_is_on_its_way_out_and_off_means_nothing() -> None:
    assert compat.rename_arguments({"warmup_ratio": 0.1}, Between) == {"warmup_steps": 0.1}
    assert compat.rename_arguments({"warmup_ratio": None, "group_by_length": False}, New) == {}
    assert compat.rename_arguments({"train_sampling_strategy": "random"}, Old) == {"group_by_length": False}
    unknown = {"train_sampling_strategy": "sequential", "learning_rat": 1}
    assert compat.rename_arguments(unknown, Old) == unknown  # whoever takes the arguments says so


def test_two_keywords_for_one_thing_are_refused_unless_they_agree() -> None:
    with pytest.raises(PadfixError, match=r"eval_strategy='no' and eval_strategy='steps' mean the same"):
        compat.rename_arguments({"evaluation_strategy": "steps", "eval_strategy": "no"}, New)
    assert compat.rename_arguments({"no_cuda": True, "use_cpu": True}, New) == {"use_cpu": True}


@pytest.mark.parametrize("config_class", [TrainingArguments, trl.SFTConfig])
def test_the_installed_arguments_take_every_name(config_class: Any, tmp_path: Path) -> None:
    for way in range(2):
        given = {name: value for pair in BOTH_WAYS[:4] for name, value in pair[way].items()}
        renamed = compat.rename_arguments(given, config_class)
        args = config_class(str(tmp_path), use_cpu=True, bf16=False, report_to=[], eval_steps=1, **renamed)
        assert args.get_warmup_steps(50) == 5
        assert str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "steps"
        grouped = getattr(args, "group_by_length", None) or getattr(args, "train_sampling_strategy", None)
        assert grouped in (True, "group_by_length")
        assert args.gradient_checkpointing


def test_the_names_are_those_of_the_installed_classes() -> None:
    class Later:
        def __init__(self, model: Any, processing_class: Any) -> None:
            pass

    class Earlier:
        def __init__(self, model: Any, tokenizer: Any) -> None:
            pass

    assert compat.name_tokenizer_argument(Later) == "processing_class"
    assert compat.name_tokenizer_argument(Earlier) == "tokenizer"
    for trainer_class in (Trainer, trl.SFTTrainer):
        assert compat.name_tokenizer_argument(trainer_class) in inspect.signature(trainer_class).parameters
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert compat.name_dtype_argument() == ("dtype" if release >= (4, 56) else "torch_dtype")
    assert compat.averages_by_tokens() is (release >= (4, 46))
    assert compat.resizes_to_mean(PreTrainedModel) is (release >= (4, 46))
    assert compat.gives_clock(fresh_tokenizer("3.2-instruct")) is (release >= (4, 45))


def test_a_field_of_the_adapter_s_configuration_is_asked_for_by_name() -> None:
    fields = inspect.signature(LoraConfig).parameters
    assert compat.trains_single_rows(LoraConfig()) is ("trainable_token_indices" in fields)
    assert compat.ties_saved_copies(LoraConfig()) is ("ensure_weight_tying" in fields)
    assert compat.list_feature(SimpleNamespace(Sequence=1)) == 1
    assert compat.list_feature(SimpleNamespace(Sequence=1, List=2)) == 2


def test_checkpointing_is_switched_on_under_the_name_that_the_model_knows() -> None:
    class Earlier:
        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any) -> None:
            self.how = gradient_checkpointing_kwargs

    class Later(Earlier):
        def activation_checkpointing_enable(self, activation_checkpointing_kwargs: Any) -> None:
            self.how = {**activation_checkpointing_kwargs, "named": "activation"}

    earlier, later = Earlier(), Later()
    model: Any
    for model in (earlier, later):
        compat.enable_checkpointing(model, {"use_reentrant": False})
    assert (earlier.how, later.how) == ({"use_reentrant": False}, {"use_reentrant": False, "named": "activation"})


def test_merges_written_as_pairs_load_or_are_refused_with_the_reason(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    folder = save(tmp_path / "run", tokenizer, small_model(tokenizer))
    file = folder / "tokenizer.json"
    held = json.loads(file.read_text())
    merges = held["model"]["merges"]
    held["model"]["merges"] = [each.split(" ") if isinstance(each, str) else each for each in merges]
    assert held["model"]["merges"][0] == ["1", "2"]
    file.write_text(json.dumps(held))
    found = [finding.message for finding in diagnose(folder, select=["LOD006"]).findings]
    if tuple(int(part) for part in tokenizers.__version__.split(".")[:2]) >= (0, 20):
        assert compat.reads_paired_merges() and not found
        ids = load(folder, verbose=False)[1]("12345")["input_ids"]
        assert ids == tokenizer("12345", add_special_tokens=False)["input_ids"]
        return
    assert not compat.reads_paired_merges()
    with pytest.raises(PadfixError, match=r"merges as pairs.*pip install -U 'transformers>=4\.45'"):
        load(folder, verbose=False)
    assert len(found) == 1 and "pip install -U 'transformers>=4.45'" in found[0]


@pytest.mark.parametrize("tied", [True, False])
def test_added_rows_are_the_mean_everywhere_and_trained_or_refused(tied: bool) -> None:
    model = make_tiny_llama(hidden_size=16, num_hidden_layers=1, tie_word_embeddings=tied)
    tokenizer, before = fresh_tokenizer("3.1-instruct"), model.get_input_embeddings().weight.detach().clone()
    by_rows = compat.trains_single_rows(LoraConfig())
    if tied and not by_rows:
        with pytest.raises(PadfixError, match=r"the head, the same matrix, would stay behind.*pip install -U peft"):
            add_tokens(model, tokenizer, ["<tool>"])
        assert len(tokenizer) == 128256 and torch.equal(model.get_input_embeddings().weight, before)
        return
    added = add_tokens(model, tokenizer, ["<tool>"])
    after = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    assert torch.equal(after[:-1], before) and torch.allclose(after[-1], before.mean(0), atol=1e-4)
    heads = tuple(int(part) for part in peft.__version__.split(".")[:2]) >= (0, 18)
    compat.trains_rows_of_heads.cache_clear()
    state = torch.get_rng_state()
    assert compat.trains_rows_of_heads() is heads and torch.equal(torch.get_rng_state(), state)
    if by_rows:
        assert (
            list(added.lora.trainable_token_indices) == ["embed_tokens", "lm_head"][: 2 if heads and not tied else 1]
        )
        assert list(added.lora.modules_to_save or ()) == ([] if tied or heads else ["lm_head"])
    else:  # then both matrices are trained whole
        assert sorted(added.lora.modules_to_save) == ["embed_tokens", "lm_head"]
    adapted = get_peft_model(model, added.lora)
    ids = torch.tensor([[128000, 128256, 15, 128256]])
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=1.0)
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    merged = adapted.merge_and_unload()
    assert not torch.equal(merged.get_input_embeddings().weight[128256], after[128256])
    assert not torch.equal(merged.get_output_embeddings().weight[128256], head[128256])


def test_gradients_that_accelerate_would_divide_once_more_are_divided_once() -> None:
    class Accelerator:
        gradient_accumulation_steps = 4

    for sharded, expected in ((False, compat.averages_by_tokens()), (True, False)):
        trainer = SimpleNamespace(accelerator=Accelerator(), is_deepspeed_enabled=sharded)
        assert compat.divide_once(trainer) is expected
        assert trainer.accelerator.gradient_accumulation_steps == (1 if expected else 4)
        assert not expected or not compat.divide_once(trainer)


def train_four_steps(folder: Path, resume: Path | None = None) -> Any:
    """The weights of a small model after four steps, from a checkpoint on if one is given."""
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    prepared = prepare(tokenizer, model, device="cpu")
    quick: Any = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "max_steps": 4, "save_steps": 2}
    args = TrainingArguments(folder, **quick, **prepared.trainer_args)
    rows = prepared.encode([{"prompt": "a", "completion": "b" * n} for n in range(1, 5)], progress=False)
    trainer = Trainer(model, args, train_dataset=rows, data_collator=prepared.collator)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return [weight.detach() for weight in model.parameters()]


def reads_own_checkpoints() -> bool:
    """Tell whether `Trainer.train(resume_from_checkpoint=...)` can read its random states with the installed torch.

    torch 2.6 reads weights only, and transformers up to 4.46 keeps numpy's state in that file: it raises
    UnpicklingError. With `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1` in the environment it reads what it wrote.
    """
    reads_all = not hasattr(torch.serialization, "safe_globals")  # torch up to 2.4
    forced = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower() in ("1", "y", "yes", "true")
    return reads_all or forced or hasattr(transformers.trainer, "safe_globals")


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.slow
def test_a_run_is_taken_up_again_where_it_is_said_to_be(
    forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1" if forced else "")
    whole = train_four_steps(tmp_path)
    try:
        again = train_four_steps(tmp_path, tmp_path / "checkpoint-2")
        found: object = all(map(torch.equal, whole, again))
    except Exception as error:
        found = type(error).__name__
    by_itself = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 47)
    able = forced or by_itself
    said = "can: True did: True" if able else "can: False did: UnpicklingError"
    assert f"can: {reads_own_checkpoints()} did: {found}" == said
    report = run_checks(Facts(environment=observe_environment()), select_checks(["PKG001"]))
    assert any("UnpicklingError" in finding.message for finding in report.findings) is not by_itself
