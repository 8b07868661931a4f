"""The rule that finds a jump of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_padfix.training.guard.loss_spikes import find_jump, score_jump


def test_the_score_is_that_of_iglewicz_and_hoaglin() -> None:
    earlier = [math.exp(value) for value in (1.0, 2.0, 3.0, 4.0, 100.0)]  # median 3, absolute deviations 2 1 0 1 97
    assert score_jump(math.exp(7.0), earlier) == pytest.approx(0.6745 * 4 / 1)
    assert score_jump(math.exp(2.0), earlier) == pytest.approx(-0.6745)
    assert score_jump(2.0, [1.0] * 30) == pytest.approx(0.6745 * math.log(2) / 0.02)
    assert score_jump(2.0, [1.0]) == score_jump(0.0, earlier) == score_jump(math.inf, earlier) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    start=st.floats(1.0, 12.0),
    end=st.floats(0.005, 0.9),
    speed=st.floats(5, 200),
    noise=st.floats(0.0, 0.35),
)
def test_a_falling_curve_with_noise_never_spikes_and_a_broken_one_does(
    seed: int, start: float, end: float, speed: float, noise: float
) -> None:
    source = torch.Generator().manual_seed(seed)
    shakes = torch.exp(noise * torch.randn(300, generator=source)).tolist()
    curve = [start * (end + (1 - end) * math.exp(-step / speed)) * shakes[step] for step in range(300)]
    for step, loss in enumerate(curve):
        assert find_jump(loss, curve[max(0, step - 64) : step], 10.0) == ""
    middle = sorted(curve[-64:])[32]
    fallen = (end + (1 - end) * math.exp(-236 / speed)) / (end + (1 - end) * math.exp(-299 / speed))
    # A window that still falls is wide by itself: 4 times its median scores as far above it as the fall is steep.
    if noise < 0.09 and fallen < 1.1:
        assert "robust z-score" in find_jump(max(4 * middle, middle + 0.6), curve[-64:], 10.0)
    assert find_jump(24.0, [], 10.0, math.log(128_256)) != "" == find_jump(23.0, [], 10.0, math.log(128_256))
    assert find_jump(2.0, [1.0] * 19, 10.0) == "" != find_jump(2.0, [1.0] * 20, 10.0)
