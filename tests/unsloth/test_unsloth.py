"""The Unsloth backend for real, in an environment of its own: `make unsloth` builds it and runs this folder.

Unsloth holds transformers at 5.17, where `LlamaTokenizerFast` misreads Llama 3's vocabulary, and sets the pad token to
`<|eot_id|>` on a CPU. Both are healed here, and what is trained equals what the other backend trains.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

# Importing it patches transformers, TRL and PEFT for every test of the process, so it is only looked for.
if importlib.util.find_spec("unsloth") is None:
    pytest.skip("Unsloth is not installed here: make unsloth", allow_module_level=True)

import unsloth  # type: ignore[import-not-found, unused-ignore]  # isort: skip  # before transformers
import torch
from transformers import AutoTokenizer

from llama_padfix import PadfixError, build_trainer, load, plan_patch, prepare
from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama
from llama_padfix.demo.run import load_rows
from llama_padfix.training.loading.plan import plan_load
from tests.support.saved import save

ROWS = load_rows(["chats.jsonl"])
TEXT = "Hello world, it's 12345 o'clock"


@pytest.fixture(scope="module")
def right() -> Any:
    return build_tokenizer("3.1-instruct")


@pytest.fixture(scope="module")
def folder(right: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A derivative of Llama 3.1 Instruct as many are: it names LlamaTokenizerFast. Read only."""
    model = make_tiny_llama(hidden_size=128, num_hidden_layers=1, initializer_range=0.1)
    return save(tmp_path_factory.mktemp("derivative"), right, model, tokenizer_class="LlamaTokenizerFast")


@pytest.fixture(scope="module", params=[None, "nf4"])
def pair(request: pytest.FixtureRequest, folder: Path) -> tuple[Any, Any, str | None]:
    quantization: str | None = request.param
    model, tokenizer = load(folder, backend="unsloth", quantization=quantization, lora=True, max_length=128)
    return model, tokenizer, quantization


def adapters(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def test_left_alone_the_ids_and_the_pad_token_are_wrong(folder: Path, right: Any) -> None:
    assert AutoTokenizer.from_pretrained(folder)("Hello world")["input_ids"] != right("Hello world")["input_ids"]
    _, theirs = unsloth.FastLanguageModel.from_pretrained(str(folder), load_in_4bit=False)
    assert theirs("Hello world")["input_ids"] == [128000, 39, 96392]
    assert theirs.pad_token == theirs.eos_token == "<|eot_id|>"


def test_tokenizer_and_stop_list_are_healed(pair: tuple[Any, Any, str | None], right: Any) -> None:
    model, tokenizer, _ = pair
    plain = [id for id in right(TEXT)["input_ids"] if id != 128000]
    assert tokenizer(TEXT)["input_ids"] == plain  # the template writes the BOS
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|end_of_text|>", "<|eot_id|>")
    assert set(model.generation_config.eos_token_id) == {128001, 128008, 128009}
    assert not plan_patch(tokenizer, model)


def test_weights_are_4_bit_in_truth_and_adapters_those_of_the_other_backend(
    pair: tuple[Any, Any, str | None], folder: Path
) -> None:
    model, _, quantization = pair
    packed = [module for module in model.modules() if type(getattr(module, "weight", None)).__name__ == "Params4bit"]
    packed = [module for module in packed if not hasattr(module, "base_layer")]  # PEFT's wrapper shows its weight
    assert len(packed) == (7 if quantization else 0)
    assert all(module.weight.quant_state.nested for module in packed)
    other, _ = load(folder, quantization=quantization, lora=True, verbose=False)
    assert adapters(model) == adapters(other)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_ids_and_masks_are_those_of_the_other_backend(pair: tuple[Any, Any, str | None], folder: Path) -> None:
    _, tokenizer, _ = pair
    _, other = load(folder, verbose=False)
    ours = prepare(tokenizer, max_length=128).encode(ROWS, progress=False).with_format(None)
    theirs = prepare(other, max_length=128).encode(ROWS, progress=False).with_format(None)
    assert len(ours) > 150
    assert ours["input_ids"][:] == theirs["input_ids"][:]
    assert ours["labels"][:] == theirs["labels"][:]


def test_the_loss_falls_by_half(pair: tuple[Any, Any, str | None], tmp_path: Path) -> None:
    model, tokenizer, _ = pair
    short = sorted(ROWS, key=lambda row: len(str(row)))[:8]
    trainer = build_trainer(
        model,
        tokenizer,
        short,
        max_length=128,
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20
    assert sum(losses[-3:]) / 3 < losses[0] / 2


def test_what_its_devices_do_not_share_is_refused(folder: Path) -> None:
    for asked in ({"attn_implementation": "eager"}, {"low_cpu_mem_usage": True}):
        with pytest.raises(PadfixError, match="backend='unsloth' passes on token, revision and no"):
            load(folder, backend="unsloth", **asked)
    with pytest.raises(PadfixError, match=r"Unsloth takes no use_dora"):
        load(folder, backend="unsloth", lora={"use_dora": True}, verbose=False)
    with pytest.raises(PadfixError, match=r"loaded no Linear8bitLt layer.*backend='transformers'"):
        load(folder, backend="unsloth", quantization="int8", lora=True, verbose=False)


def test_the_keywords_are_those_of_both_devices(folder: Path) -> None:
    import ast
    import inspect

    plan = plan_load(folder, backend="unsloth", quantization="nf4", lora=True, max_length=64, device_map={"": "cpu"})
    source = Path(unsloth.__file__).parent / "models" / "loader.py"
    gpu = {
        argument.arg
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == "FastLanguageModel"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "from_pretrained"
        for argument in (*function.args.args, *function.args.kwonlyargs)
    }
    cpu = set(inspect.signature(unsloth.FastLanguageModel.from_pretrained).parameters)
    assert len(gpu) > 15 and set(plan.model_arguments) <= gpu & cpu


def test_the_recipe_trains_and_saves(tmp_path: Path) -> None:
    from tests.test_examples import check_saved, run_recipe

    printed = run_recipe("qlora_unsloth.py", tmp_path / "out")
    assert "llama_padfix: backend: unsloth" in printed
    assert printed.count("'loss'") == 2
    check_saved(tmp_path / "out")
