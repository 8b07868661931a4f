"""One process holds the whole model on its own device; a launcher's word is read, and nothing else is believed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llama_padfix import PadfixError
from llama_padfix.hardware.devices import Launch, choose_device_map, read_launch
from tests.hardware.test_precision import A100, Machine

ALONE = Launch(0, 1, None)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)


def test_the_launch_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_launch() == ALONE and not read_launch().is_distributed
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert read_launch() == Launch(3, 8, None) and read_launch().is_distributed
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert read_launch().sharded_by == "FSDP"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert read_launch().sharded_by == "DeepSpeed"
    monkeypatch.setenv("LOCAL_RANK", "-1")  # the old launcher's word for "alone"
    assert read_launch().local_rank == 0
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(PadfixError, match=r"WORLD_SIZE='two' is no number.*unset WORLD_SIZE"):
        read_launch()


@pytest.mark.parametrize("wish", ["auto", "balanced", "sequential"])
def test_several_processes_never_spread_one_model(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    Machine(monkeypatch).nvidia(A100, A100)
    places, why = choose_device_map(wish, Launch(1, 2, None))
    assert places == {"": 1} and f"not {wish!r}" in why.reason


def test_a_process_that_sees_only_its_own_gpu_uses_that(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch).nvidia(A100)
    assert choose_device_map("auto", Launch(1, 2, None))[0] == {"": 0}


def test_a_process_without_a_gpu_of_its_own_is_told_how_many_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch).nvidia(A100, A100)
    with pytest.raises(PadfixError, match=r"LOCAL_RANK is 2 and torch sees 2 cuda devices.*--nproc_per_node 2"):
        choose_device_map("auto", Launch(2, 3, None))


def test_one_process_takes_its_only_device_and_spreads_over_several(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.nvidia(A100)
    assert choose_device_map("auto", ALONE)[0] == {"": 0}
    machine.nvidia(A100, A100)
    places, why = choose_device_map("auto", ALONE)
    assert places == "auto" and "torchrun --nproc_per_node 2" in why.reason
    machine.patch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_device_map("auto", ALONE)[0] is None


def test_other_backends_are_named_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.xpu(True, True)
    assert choose_device_map("auto", Launch(1, 2, None))[0] == {"": "xpu:1"}
    monkeypatch.delattr(torch, "xpu")
    machine.mps((15, 0))
    assert choose_device_map("auto", ALONE)[0] == {"": "mps"}


def test_on_a_cpu_quantised_weights_need_a_place_and_others_none() -> None:
    for launch in (ALONE, Launch(1, 2, None)):
        assert choose_device_map("auto", launch)[0] is None
        assert choose_device_map("auto", launch, quantized=True)[0] == {"": "cpu"}


def test_what_shards_the_weights_places_them(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch).nvidia(A100, A100)
    places, why = choose_device_map("auto", Launch(1, 2, "FSDP"), quantized=True)
    assert places is None and "FSDP places the weights itself" in why.reason


@pytest.mark.parametrize(
    ("wish", "places"),
    [
        (None, None),
        ({"": "cpu"}, {"": "cpu"}),
        ("cpu", {"": "cpu"}),
        ("cuda:1", {"": "cuda:1"}),
        (1, {"": 1}),
        (torch.device("cpu"), {"": "cpu"}),
    ],
)
def test_a_place_that_is_named_is_kept(wish: Any, places: Any) -> None:
    assert choose_device_map(wish, Launch(0, 2, None))[0] == places


def test_what_is_no_place_is_refused() -> None:
    for wish in ("automatic", 1.5, True):
        with pytest.raises(PadfixError, match=r'is no device and none of auto, balanced.*device_map="auto"'):
            choose_device_map(wish, ALONE)
