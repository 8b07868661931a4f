"""The device's answers are the one thing faked here; torch itself, and the Trainer's arguments, are real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llama_padfix.core.errors import PadfixError
from llama_padfix.hardware.precision import Precision, choose_precision

Card = tuple[str, tuple[int, int]]
T4: Card = ("Tesla T4", (7, 5))
V100: Card = ("Tesla V100-SXM2-16GB", (7, 0))
A100: Card = ("NVIDIA A100-SXM4-40GB", (8, 0))
H100: Card = ("NVIDIA H100 80GB HBM3", (9, 0))
RTX4090: Card = ("NVIDIA GeForce RTX 4090", (8, 9))
B200: Card = ("NVIDIA B200", (10, 0))
GTX980: Card = ("NVIDIA GeForce GTX 980", (5, 2))
TX1: Card = ("NVIDIA Tegra X1", (5, 3))


@dataclass
class Machine:
    """Sets what torch says about this machine; everything it does not set is a CPU-only machine."""

    patch: pytest.MonkeyPatch

    def nvidia(self, *cards: Card, emulation_known: bool = True, current: int = 0) -> None:
        self._cuda([card[0] for card in cards], current)
        self.patch.setattr(torch.cuda, "get_device_capability", lambda i=None: cards[current if i is None else i][1])

        def answer(including_emulation: bool = True) -> bool:  # as torch 2.4 to 2.13 have it
            return including_emulation or cards[current][1][0] >= 8

        # Without the parameter, emulation is always counted.
        self.patch.setattr(torch.cuda, "is_bf16_supported", answer if emulation_known else lambda: True)

    def rocm(self, *cards: tuple[str, str | None], native: Callable[..., bool] | None = None) -> None:
        self._cuda([card[0] for card in cards], 0)
        self.patch.setattr(torch.version, "hip", "6.2.41133")

        def properties(index: int) -> SimpleNamespace:
            arch = cards[index][1]
            return SimpleNamespace() if arch is None else SimpleNamespace(gcnArchName=arch)

        self.patch.setattr(torch.cuda, "get_device_properties", properties)
        # gfx906 reports 9.0 here: a number that means Hopper on NVIDIA and nothing of the kind on AMD.
        self.patch.setattr(torch.cuda, "get_device_capability", lambda i=None: (9, 0))

        def always(including_emulation: bool = True) -> bool:  # torch: `if torch.version.hip: return True`
            return True

        self.patch.setattr(torch.cuda, "is_bf16_supported", native or always)

    def _cuda(self, names: list[str], current: int) -> None:
        self.patch.setattr(torch.cuda, "is_available", lambda: True)
        self.patch.setattr(torch.cuda, "device_count", lambda: len(names))
        self.patch.setattr(torch.cuda, "current_device", lambda: current)
        self.patch.setattr(torch.cuda, "get_device_name", lambda i=None: names[current if i is None else i])

    def xpu(self, *conversions: bool | None, answer: Callable[..., bool] = lambda: True) -> None:
        def properties(index: int = 0) -> SimpleNamespace:
            has = conversions[index]
            return SimpleNamespace() if has is None else SimpleNamespace(has_bfloat16_conversions=has)

        fake = SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: len(conversions),
            get_device_name=lambda index: f"Intel(R) GPU number {index}",
            get_device_properties=properties,
            is_bf16_supported=answer,
        )
        self.patch.setattr(torch, "xpu", fake)

    def mps(self, macos: tuple[int, int] | None) -> None:
        self.patch.setattr(torch.backends.mps, "is_available", lambda: True)
        if macos is None:
            self.patch.delattr(torch.backends.mps, "is_macos_or_newer", raising=False)
        else:
            newer = lambda major, minor: macos >= (major, minor)  # noqa: E731
            self.patch.setattr(torch.backends.mps, "is_macos_or_newer", newer, raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return bare(monkeypatch)


def bare(patch: pytest.MonkeyPatch) -> Machine:
    patch.delenv("ACCELERATE_USE_CPU", raising=False)
    patch.setattr(torch.version, "hip", None)
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.cuda, "device_count", lambda: 0)
    patch.setattr(torch.backends.mps, "is_available", lambda: False)
    patch.setattr(torch, "xpu", SimpleNamespace(is_available=lambda: False), raising=False)
    return Machine(patch)


def shape(precision: Precision) -> tuple[str, bool, bool, float]:
    return str(precision.dtype).removeprefix("torch."), precision.bf16, precision.fp16, precision.max_grad_norm


BF16 = ("bfloat16", True, False, 1.0)
FP16 = ("float16", False, True, 0.3)
FLOAT32 = ("float32", False, False, 1.0)


@pytest.mark.parametrize("emulation_known", [True, False])
@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (T4, FP16),
        (V100, FP16),
        (TX1, FP16),
        (GTX980, FLOAT32),
        (A100, BF16),
        (RTX4090, BF16),
        (H100, BF16),
        (B200, BF16),
    ],
    ids=lambda value: value[0],
)
def test_one_nvidia_card(
    machine: Machine, card: Card, expected: tuple[str, bool, bool, float], emulation_known: bool
) -> None:
    machine.nvidia(card, emulation_known=emulation_known)
    # The premise: torch's plain answer is yes on every one of them, by emulation where need be.
    assert torch.cuda.is_bf16_supported() is True
    chosen = choose_precision()
    assert shape(chosen) == expected
    assert card[0] in chosen.reason
    assert f"{card[1][0]}.{card[1][1]}" in chosen.reason


def test_fp16_tells_that_trainable_weights_must_be_float32(machine: Machine) -> None:
    machine.nvidia(T4)
    assert "float32 trainable weights" in choose_precision().reason


def test_the_yes_of_a_torch_without_the_parameter_is_not_believed_nor_asked(machine: Machine) -> None:
    machine.nvidia(A100)

    def plain() -> bool:
        raise AssertionError("this answer counts emulation")

    machine.patch.setattr(torch.cuda, "is_bf16_supported", plain)
    assert shape(choose_precision()) == BF16


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("cards", [(T4, A100), (A100, T4)], ids=["T4 first", "A100 first"])
def test_the_weakest_visible_card_decides(machine: Machine, cards: tuple[Card, Card], current: int) -> None:
    machine.nvidia(*cards, current=current)
    for device in (None, "cuda", torch.device("cuda")):
        chosen = choose_precision(device)
        assert shape(chosen) == FP16
        assert f"Tesla T4 (cuda:{cards.index(T4)}), the weakest of 2 devices," in chosen.reason
        assert "7.5" in chosen.reason


def test_a_card_without_fp16_among_new_ones(machine: Machine) -> None:
    machine.nvidia(H100, GTX980, T4)
    chosen = choose_precision()
    assert shape(chosen) == FLOAT32
    assert "GTX 980 (cuda:1)" in chosen.reason


@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("device", ["cuda:{}", "torch", "int"])
def test_an_index_asks_for_that_card_alone(machine: Machine, device: str, current: int) -> None:
    machine.nvidia(T4, A100, current=current)
    for index, expected in ((0, FP16), (1, BF16)):
        asked: object = device.format(index)
        asked = {"torch": torch.device("cuda", index), "int": index}.get(device, asked)
        chosen = choose_precision(asked)
        assert shape(chosen) == expected
        assert f"(cuda:{index})" in chosen.reason
        assert "weakest" not in chosen.reason


def test_a_no_from_torch_outweighs_the_capability(machine: Machine) -> None:
    machine.nvidia(A100, A100)

    def says_no(including_emulation: bool = True) -> bool:
        return including_emulation

    machine.patch.setattr(torch.cuda, "is_bf16_supported", says_no)
    assert shape(choose_precision()) == FP16
    assert "torch says" in choose_precision().reason
    assert shape(choose_precision(1)) == BF16  # the answer was about device 0, the current one


@pytest.mark.parametrize(
    ("name", "arch", "expected"),
    [
        ("AMD Instinct MI250X", "gfx90a:sramecc+:xnack-", BF16),
        ("AMD Instinct MI100", "gfx908:sramecc+:xnack-", BF16),
        ("AMD Instinct MI300X", "gfx942:sramecc+:xnack-", BF16),
        ("AMD Instinct MI355X", "gfx950:sramecc+:xnack-", BF16),
        ("AMD Radeon RX 7900 XTX", "gfx1100", BF16),
        ("AMD Radeon RX 9070 XT", "gfx1201", BF16),
        ("AMD Instinct MI50", "gfx906:sramecc+:xnack-", FP16),
        ("AMD Radeon Vega 8", "gfx90c:xnack-", FP16),
        ("AMD Radeon RX 6600", "gfx1032", FP16),
        ("AMD Radeon RX 5700 XT", "gfx1010:xnack-", FP16),
        ("AMD Radeon RX 580", "gfx803", FP16),
        ("AMD Radeon of a torch that does not tell", None, FP16),
    ],
)
def test_rocm_is_judged_by_architecture(
    machine: Machine, name: str, arch: str | None, expected: tuple[str, bool, bool, float]
) -> None:
    machine.rocm((name, arch))
    chosen = choose_precision()
    assert shape(chosen) == expected
    assert name in chosen.reason
    assert (arch or "unknown").split(":")[0] in chosen.reason
    assert "compute capability" not in chosen.reason


@pytest.mark.parametrize("flip", [False, True])
def test_rocm_the_weakest_decides(machine: Machine, flip: bool) -> None:
    cards = [("AMD Instinct MI250X", "gfx90a"), ("AMD Instinct MI50", "gfx906")]
    machine.rocm(*(reversed(cards) if flip else cards))
    chosen = choose_precision()
    assert shape(chosen) == FP16
    assert "MI50" in chosen.reason
    assert shape(choose_precision(int(flip))) == BF16


def test_rocm_a_no_from_torch_is_believed(machine: Machine) -> None:
    def says_no(including_emulation: bool = True) -> bool:
        return including_emulation

    machine.rocm(("AMD Instinct MI250X", "gfx90a"), native=says_no)
    assert shape(choose_precision()) == FP16


def native_yes(including_emulation: bool = True) -> bool:
    return True


def native_no(including_emulation: bool = True) -> bool:
    return including_emulation


@pytest.mark.parametrize(
    ("conversions", "answer", "expected"),
    [
        ((True,), native_yes, BF16),
        ((False,), native_no, FP16),
        ((True, False), native_yes, FP16),  # the call is about the first device, the second one decides
        ((None,), native_yes, BF16),
        ((None,), native_no, FP16),
        ((None,), lambda: True, FP16),  # cannot exclude emulation
    ],
)
def test_xpu(
    machine: Machine,
    conversions: tuple[bool | None, ...],
    answer: Callable[..., bool],
    expected: tuple[str, bool, bool, float],
) -> None:
    machine.xpu(*conversions, answer=answer)
    chosen = choose_precision()
    assert shape(chosen) == expected
    assert f"(xpu:{len(conversions) - 1})" in chosen.reason
    assert shape(choose_precision("xpu")) == expected


@pytest.mark.parametrize(
    ("macos", "word"),
    [((15, 1), "M1 and M2"), ((14, 0), "M1 and M2"), ((13, 6), "macOS 14"), (None, "macOS 14")],
)
def test_mps_is_float32_with_the_reason(machine: Machine, macos: tuple[int, int] | None, word: str) -> None:
    machine.mps(macos)
    for device in (None, "mps", torch.device("mps", 0), 0):
        chosen = choose_precision(device)
        assert shape(chosen) == FLOAT32
        assert chosen.reason.startswith("mps: ")
        assert word in chosen.reason


def test_cpu(machine: Machine) -> None:
    for device in (None, "cpu", "cpu:0", torch.device("cpu"), torch.nn.Linear(1, 1).weight.device):
        chosen = choose_precision(device)
        assert shape(chosen) == FLOAT32
        assert chosen.reason.startswith("cpu: ")
        assert "use_cpu" not in chosen.reason


def test_cpu_on_a_machine_with_a_gpu_says_where_the_trainer_would_go(machine: Machine) -> None:
    machine.nvidia(A100)
    chosen = choose_precision("cpu")
    assert shape(chosen) == FLOAT32
    assert "cuda" in chosen.reason
    assert "use_cpu=True" in chosen.reason


@pytest.mark.parametrize(("value", "dtype"), [("true", "float32"), ("1", "float32"), ("false", "bfloat16")])
def test_accelerates_cpu_switch_is_read(machine: Machine, value: str, dtype: str) -> None:
    machine.nvidia(A100)
    machine.patch.setenv("ACCELERATE_USE_CPU", value)
    assert choose_precision().dtype == getattr(torch, dtype)
    assert choose_precision("cuda").dtype == torch.bfloat16  # what was asked for by name stands


def test_the_order_is_the_trainers(machine: Machine) -> None:
    machine.nvidia(A100)
    assert "cuda:0" in choose_precision().reason
    machine.patch.setattr(torch, "npu", SimpleNamespace(is_available=lambda: True), raising=False)
    assert choose_precision().reason.startswith("npu ")
    machine.xpu(True)
    assert "xpu:0" in choose_precision().reason
    machine.mps((15, 0))
    assert choose_precision().reason.startswith("mps")


@pytest.mark.parametrize("device", ["hpu", torch.device("hpu", 0), "mtia"])
def test_other_backends_are_not_judged(machine: Machine, device: object) -> None:
    chosen = choose_precision(device)
    assert shape(chosen) == FLOAT32
    assert "not judged" in chosen.reason
    assert "by hand" in chosen.reason
    assert str(getattr(device, "type", device)) in chosen.reason


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("meta", "meta device"),
        (torch.device("meta"), "meta device"),
        ("cuda:2", "cuda:2 does not exist"),
        (torch.device("cuda", 7), "cuda:7 does not exist"),
        (2, "cuda:2 does not exist"),
        (-1, "cuda:-1 does not exist"),
        ("cuda:-1", "'cuda:-1' is not a device"),
        ("auto", "'auto' is not a device"),
        ("", "'' is not a device"),
        ("mps", "No mps device"),
        ("xpu:0", "No xpu device"),
        (True, "A device was expected, not True"),
        ({"": 0}, "A device was expected"),
        (1.0, "A device was expected"),
    ],
)
def test_what_is_no_device_raises_with_the_mending_line(machine: Machine, device: object, words: str) -> None:
    machine.nvidia(T4, A100)
    with pytest.raises(PadfixError, match=r"choose_precision\(\)") as caught:
        choose_precision(device)
    assert words in str(caught.value)


@pytest.mark.parametrize("device", [0, "cuda", "cuda:0", "mps", "xpu"])
def test_an_accelerator_that_is_not_there(machine: Machine, device: object) -> None:
    with pytest.raises(PadfixError, match=r"choose_precision\(\)"):
        choose_precision(device)


def test_torch_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PadfixError) as caught:
        choose_precision()
    assert str(caught.value).splitlines()[-1] == "pip install torch"


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, llama_padfix.hardware.precision; assert 'torch' not in sys.modules; print('ok')"
    assert run(code) == "ok"


def every_machine() -> list[Callable[[Machine], None]]:
    cards = (T4, V100, A100, H100, RTX4090, B200, GTX980, TX1)
    machines: list[Callable[[Machine], None]] = [lambda machine: None]
    for one in cards:
        for other in cards:
            machines.append(lambda machine, pair=(one, other): machine.nvidia(*pair))  # type: ignore[misc]
    machines.append(lambda machine: machine.rocm(("MI250", "gfx90a")))
    machines.append(lambda machine: machine.rocm(("MI50", "gfx906"), ("MI300X", "gfx942")))
    machines.append(lambda machine: machine.xpu(True, False))
    machines.append(lambda machine: machine.mps((14, 0)))
    return machines


def test_never_both_switches_and_always_a_reason_that_names_the_device() -> None:
    seen = set()
    for fake in every_machine():
        with pytest.MonkeyPatch.context() as patch:
            fake(bare(patch))
            chosen = choose_precision()
        seen.add(chosen.dtype)
        assert not (chosen.bf16 and chosen.fp16)
        assert chosen.bf16 == (chosen.dtype == torch.bfloat16)
        assert chosen.fp16 == (chosen.dtype == torch.float16)
        assert chosen.max_grad_norm == (0.3 if chosen.fp16 else 1.0)
        assert any(kind in chosen.reason for kind in ("cuda:", "xpu:", "mps", "cpu"))
    assert seen == {torch.bfloat16, torch.float16, torch.float32}


@pytest.mark.slow
def test_the_real_answer_of_this_machine_is_taken_by_training_arguments(tmp_path: Path) -> None:
    # In a process of its own: accelerate keeps the precision of the last Accelerator in shared state.
    code = (
        "import sys; from transformers import TrainingArguments; from accelerate import Accelerator\n"
        "from llama_padfix.hardware.precision import choose_precision\n"
        "p = choose_precision()\n"
        "a = TrainingArguments(output_dir=sys.argv[1], bf16=p.bf16, fp16=p.fp16, max_grad_norm=p.max_grad_norm)\n"
        "# The library and the Trainer must look at the same device.\n"
        "assert p == choose_precision(a.device.type), (p, a.device)\n"
        "used = Accelerator(mixed_precision='bf16' if p.bf16 else 'fp16' if p.fp16 else 'no')\n"
        "assert used.device.type == a.device.type\n"
        "print(a.bf16 == p.bf16, a.fp16 == p.fp16, a.max_grad_norm == p.max_grad_norm)\n"
    )
    assert run(code, str(tmp_path)) == "True True True"


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
