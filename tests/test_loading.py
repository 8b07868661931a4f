"""`load`: a patched pair from a folder, and a line that mends it when there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_padfix import PadfixError, Precision, load, plan_patch
from llama_padfix.loading import name_dtype_argument
from llama_padfix.reference import make_tiny_llama
from tests.conftest import fresh_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the early Llama 3 Instruct release was: nothing is right in it. Read only."""
    path = tmp_path_factory.mktemp("checkpoint")
    make_tiny_llama("3-instruct-early", hidden_size=16, num_hidden_layers=1).save_pretrained(path)
    fresh_tokenizer("3-instruct-early").save_pretrained(path)
    return path


def without(folder: Path, target: Path, *names: str) -> Path:
    target.mkdir()
    for item in folder.iterdir():
        if not item.name.startswith(names):
            shutil.copy(item, target / item.name)
    return target


BF16 = Precision(torch.bfloat16, bf16=True, fp16=False, max_grad_norm=1.0, reason="a test")
FP16 = Precision(torch.float16, bf16=False, fp16=True, max_grad_norm=0.3, reason="a test")


def test_loaded_pair_is_patched_and_needs_nothing_more(folder: Path) -> None:
    model, tokenizer = load(folder)
    assert model.generation_config.eos_token_id == [128001, 128009]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|end_of_text|>", "<|eot_id|>")
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id == 128001
    assert not plan_patch(tokenizer, model)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"precision": FP16}, torch.float32),
        ({"precision": BF16}, torch.bfloat16),
        ({"precision": BF16, "dtype": torch.float16}, torch.float16),
        ({"precision": BF16, "torch_dtype": "float16"}, torch.float16),
        ({"precision": BF16, "dtype": None, "torch_dtype": "float64"}, torch.float64),
        ({"dtype": "bfloat16", "torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"precision": BF16, "dtype": "auto"}, torch.float32),
    ],
)
def test_weights_have_the_dtype_asked_for_or_that_of_the_precision(
    folder: Path, arguments: dict[str, Any], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *a, **k: "tokenizer")
    monkeypatch.setattr("llama_padfix.loading.patch_tokenizer", lambda *a, **k: seen.append(k))
    model, _ = load(folder, pad_token="<|eot_id|>", **arguments)
    assert model.dtype == expected
    assert seen == [{"pad_token": "<|eot_id|>"}]


def test_an_unknown_dtype_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(PadfixError, match=r"dtype='bf16'.*'bfloat16'"):
        load(folder, dtype="bf16")


def test_the_keyword_for_the_dtype_is_the_one_that_transformers_does_not_warn_of() -> None:
    assert name_dtype_argument() == "dtype"


def test_a_folder_without_tokenizer_config_or_weights_names_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PadfixError, match=r"no tokenizer.*tokenizer\.save_pretrained\("):
        load(without(folder, tmp_path / "a", "tokenizer", "special_tokens"))
    with pytest.raises(PadfixError, match=r"no config\.json \(it has: .*tokenizer\.json.*model\.save_pretrained\("):
        load(without(folder, tmp_path / "b", "config"))
    with pytest.raises(PadfixError, match=r"(?s)could not be loaded: .*model\.safetensors.*save_pretrained\(folder\)"):
        load(without(folder, tmp_path / "c", "model"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PadfixError, match="it has: nothing"):
        load(tmp_path / "empty")
    with pytest.raises(PadfixError, match="is a file"):
        load(folder / "config.json")


def test_an_adapter_folder_tells_how_to_load_it_onto_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(PadfixError, match=r"is an adapter.*PeftModel\.from_pretrained\(model, '.*'\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta-llama/not-here", "HF_HUB_OFFLINE=1 keeps the hub switched off.*hf download meta-llama/not-here"),
        ("./not/here", "There is no such folder"),
        ("/not/here", "There is no such folder"),
        ("runs/out/checkpoint-5", "There is no such folder"),
    ],
)
def test_a_path_that_does_not_exist_gives_the_line_that_mends_it(name: str, said: str) -> None:
    with pytest.raises(PadfixError, match=f"(?s){said}"):
        load(name)


def test_with_the_hub_reachable_a_wrong_name_points_to_the_name_and_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("You are trying to access a gated repo.")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(PadfixError, match=r"gated repo.*hf auth login"):
        load("meta-llama/Llama-3.1-8B")


def test_what_the_download_needs_reaches_tokenizer_and_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class StopError(Exception):
        pass

    def note(path: str, **keywords: Any) -> None:
        seen.append(keywords)
        if len(seen) == 2:
            raise StopError

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", note)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", note)
    shared: dict[str, Any] = {"revision": "v1", "token": "secret", "cache_dir": "c", "local_files_only": True}
    with pytest.raises(StopError):
        load(folder, precision=FP16, trust_remote_code=True, attn_implementation="eager", **shared)
    assert seen[0] == {**shared, "trust_remote_code": True}
    assert seen[1] == {**shared, "trust_remote_code": True, "attn_implementation": "eager", "dtype": torch.float32}
