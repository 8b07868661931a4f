"""The checks of adapters: wrapped twice, made over another embedding, saved without the stop list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from llama_padfix import add_tokens, diagnose, patch_tokenizer
from llama_padfix.doctor.findings import Finding
from tests.support.saved import save, small_model, small_tokenizer

CODES = ["LOD008", "EMB007", "SAV008", "SAV009", "SAV010"]


def lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


def findings(target: Any) -> dict[str, Finding]:
    report = diagnose(target, select=CODES)
    assert not [reason for reason in report.skipped.values() if "raised" in reason], report
    return {finding.code: finding for finding in report.findings}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model that stops at the end of a text alone."""
    tokenizer = small_tokenizer(chat=False)
    model = small_model(tokenizer, eos_token_id=tokenizer.eos_token_id)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return save(tmp_path / "base", tokenizer, model)


def opened(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(base))


def test_lod008_an_adapter_on_an_adapter(base: Path, tmp_path: Path) -> None:
    tokenizer, first = small_tokenizer(), get_peft_model(opened(base), lora())
    assert not findings((tokenizer, first))
    twice = get_peft_model(first, lora())
    assert "model.merge_and_unload()" in findings((tokenizer, twice))["LOD008"].message
    twice.base_model.model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight.data += 1
    twice.save_pretrained(str(tmp_path / "out"))
    loaded = PeftModel.from_pretrained(opened(base), str(tmp_path / "out"))
    assert not loaded.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight.any(), "it is lost"
    assert "SAV010" in findings(save(tmp_path / "out", tokenizer))
    as_made = PeftModel.from_pretrained(get_peft_model(opened(base), lora()), str(tmp_path / "out"))
    layer = as_made.base_model.model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.lora_B.default.weight.any()
    merged = get_peft_model(first.merge_and_unload(), lora())
    assert not findings((tokenizer, merged))


def test_sav008_rows_that_the_base_has_not(base: Path, tmp_path: Path) -> None:
    tokenizer, model = small_tokenizer(), opened(base)
    patch_tokenizer(tokenizer, model)
    assert not findings((tokenizer, get_peft_model(opened(base), lora())))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(model, lora())
    found = findings((tokenizer, adapted))
    assert list(found) == ["EMB007"] and "'[PAD]'" in found["EMB007"].message
    adapted.save_pretrained(str(tmp_path / "out"))
    found = findings(save(tmp_path / "out", tokenizer))
    rows = model.config.vocab_size
    assert found["SAV008"].severity == "error" and f"base.resize_token_embeddings({rows})" in found["SAV008"].message
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(opened(base), str(tmp_path / "out"))
    again = opened(base)
    again.resize_token_embeddings(rows)
    PeftModel.from_pretrained(again, str(tmp_path / "out"))


def test_tokens_that_are_trained_are_no_fault(base: Path, tmp_path: Path) -> None:
    tokenizer, model = small_tokenizer(), opened(base)
    patch_tokenizer(tokenizer, model)
    added = add_tokens(model, tokenizer, ["<tool>"], lora=lora())
    adapted = get_peft_model(model, added.lora)
    assert not findings((tokenizer, adapted))
    adapted.save_pretrained(str(tmp_path / "out"))
    assert {finding.severity for finding in findings(save(tmp_path / "out", tokenizer)).values()} <= {
        "note",
        "warning",
    }
    found = findings(tmp_path / "out")
    assert found["SAV008"].severity == "note" and "SAV009" in found


def test_sav009_the_stop_list_is_not_in_the_adapter(base: Path, tmp_path: Path) -> None:
    tokenizer, model = small_tokenizer(), opened(base)
    patch_tokenizer(tokenizer, model)
    stops = sorted(tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]))
    assert sorted(model.generation_config.eos_token_id) == stops
    get_peft_model(model, lora()).save_pretrained(str(tmp_path / "out"))
    found = findings(save(tmp_path / "out", tokenizer))["SAV009"]
    assert f"stops at [{stops[0]}]" in found.message and "patch_tokenizer(tokenizer, model)" in found.message
    merged = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "out")).merge_and_unload()
    assert merged.generation_config.eos_token_id == stops[0]
    patch_tokenizer(tokenizer, merged)
    assert sorted(merged.generation_config.eos_token_id) == stops
    patched = opened(base)
    patch_tokenizer(tokenizer, patched)
    save(base, None, patched)  # a base that stops there
    assert not findings(tmp_path / "out")
