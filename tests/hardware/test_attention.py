"""FlashAttention only where package, GPU, dtype and model allow it; else the next that can run, with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_padfix import PadfixError
from llama_padfix.hardware.attention import choose_attention
from tests.hardware.test_precision import A100, B200, H100, T4, Card, Machine

BF16 = torch.bfloat16
LLAMA = LlamaConfig(hidden_size=64, num_attention_heads=4)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("llama_padfix.hardware.attention._is_installed", lambda name, package: name in names)


@pytest.mark.parametrize(
    ("card", "dtype", "installed", "taken", "said"),
    [
        (H100, BF16, ("flash_attention_3", "flash_attention_2"), "flash_attention_3", "fastest"),
        (H100, BF16, ("flash_attention_2",), "flash_attention_2", "flash_attn_interface is not installed"),
        (A100, BF16, ("flash_attention_3", "flash_attention_2"), "flash_attention_2", "capability 9.x, .* has 8.0"),
        (B200, BF16, ("flash_attention_3", "flash_attention_2"), "flash_attention_2", "capability 9.x, .* has 10.0"),
        (A100, torch.float16, ("flash_attention_2",), "flash_attention_2", "no flash_attention_3"),
        (A100, torch.float32, ("flash_attention_2",), "sdpa", "computes in float16 and bfloat16.* in float32"),
        (A100, BF16, (), "sdpa", "flash_attn is not installed"),
        (T4, torch.float16, ("flash_attention_2",), "sdpa", "capability 8.0, and Tesla T4 has 7.5"),
    ],
)
def test_auto_takes_the_first_that_can_run(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    card: Card,
    dtype: torch.dtype,
    installed: tuple[str, ...],
    taken: str,
    said: str,
) -> None:
    machine.nvidia(card)
    install(monkeypatch, *installed)
    choice = choose_attention("auto", dtype, model_class=LlamaForCausalLM, config=LLAMA)
    assert (choice.taken, choice.level) == (taken, "info")
    assert re.search(said, choice.reason)


def test_the_weakest_of_several_gpus_decides(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attention_3", "flash_attention_2")
    machine.nvidia(H100, A100)
    assert choose_attention("auto", BF16).taken == "flash_attention_2"
    machine.nvidia(H100, T4)
    assert choose_attention("auto", BF16).taken == "sdpa"


def test_rocm_has_flash_attention_2_and_not_3(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.rocm(("AMD Instinct MI300X", "gfx942"))
    install(monkeypatch, "flash_attention_3", "flash_attention_2")
    assert choose_attention("auto", BF16).taken == "flash_attention_2"


def test_a_model_that_knows_no_sdpa_or_has_wide_heads_gets_what_it_can(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain:
        _supports_sdpa = False
        _supports_flash_attn = False

    class Old:  # the attribute of transformers before 4.54
        _supports_flash_attn_2 = True

    machine.nvidia(A100)
    install(monkeypatch, "flash_attention_2")
    assert choose_attention("auto", BF16, model_class=Plain).taken == "eager"
    assert choose_attention("auto", BF16, model_class=Old).taken == "flash_attention_2"
    wide = choose_attention("auto", BF16, config=LlamaConfig(hidden_size=1024, num_attention_heads=2))
    assert wide.taken == "sdpa" and "at most 256 dimensions, and this model's have 512" in wide.reason


@pytest.mark.parametrize("wish", ["flash_attention_2", "flash_attention_3"])
def test_a_wish_that_cannot_be_met_falls_back_with_a_warning_or_raises(wish: str) -> None:
    choice = choose_attention(wish, BF16)
    assert (choice.taken, choice.level) == ("sdpa", "warning")
    assert f"{wish} was asked for and cannot run here: it needs an NVIDIA GPU" in choice.reason
    with pytest.raises(PadfixError, match=f"attention='{wish}' cannot run here.*attention='sdpa'"):
        choose_attention(wish, BF16, strict=True)


def test_flash_attention_3_falls_back_to_2_where_that_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.nvidia(A100)
    install(monkeypatch, "flash_attention_2")
    assert choose_attention("flash_attention_3", BF16).taken == "flash_attention_2"
    met = choose_attention("flash_attention_2", BF16)
    assert (met.taken, met.level) == ("flash_attention_2", "info")


def test_another_package_of_that_name_is_not_flash_attention(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    machine.nvidia(A100)
    choice = choose_attention("auto", BF16)
    assert choice.taken == "sdpa" and "flash_attn is not installed" in choice.reason


@pytest.mark.parametrize("wish", ["sdpa", "eager", "flex_attention", "kernels-community/flash-attn2"])
def test_another_known_name_is_passed_on(wish: str) -> None:
    assert choose_attention(wish, torch.float32) == choose_attention(wish, torch.float32, strict=True)
    assert choose_attention(wish, torch.float32).taken == wish


def test_a_name_that_nobody_knows_is_refused() -> None:
    unknown: Any
    for unknown in ("flash", "spda", None):
        with pytest.raises(PadfixError, match=r"is not known.*eager.*sdpa.*attention=\"auto\""):
            choose_attention(unknown, BF16)
