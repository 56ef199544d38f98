"""The learning rate as a function of the step."""

from __future__ import annotations

import math

import pytest

from torchkit.task.schedule import Schedule

RATES, STAGES = (0.1, 0.01, 0.001), (2, 5)


def step_schedule(warmup: int = -1, steps_per_epoch: int = 10) -> Schedule:
    return Schedule("step", RATES, STAGES, warmup, steps_per_epoch, epochs=8)


def test_rate_drops_at_the_start_of_the_epochs_of_stages() -> None:
    schedule = step_schedule()
    for epoch in range(8):
        expected = RATES[0] if epoch < 2 else RATES[1] if epoch < 5 else RATES[2]
        assert {schedule(epoch * 10 + step) for step in range(10)} == {expected}


def test_published_recipe() -> None:
    """LRS 0.1 ... 1e-5 with STAGES 5, 10, 16, 22: epochs counted from 0."""
    schedule = Schedule("step", (0.1, 0.01, 0.001, 1e-4, 1e-5), (5, 10, 16, 22), -1, 7, 30)
    found = [schedule(epoch * 7) for epoch in range(30)]
    assert found == [0.1] * 5 + [0.01] * 5 + [0.001] * 6 + [1e-4] * 6 + [1e-5] * 8


def test_rate_rises_linearly_during_the_warm_up() -> None:
    schedule = step_schedule(warmup=15)
    for step in range(16):
        assert schedule(step) == pytest.approx(step * 0.1 / 15)
    assert schedule(16) == 0.1
    assert schedule(20) == 0.01, "the stages are counted from the start of the run"


@pytest.mark.parametrize("warmup", [-1, 0])
def test_no_warm_up(warmup: int) -> None:
    assert step_schedule(warmup)(0) == 0.1


@pytest.mark.parametrize("warmup", [-1, 0, 20])
def test_cosine_goes_from_the_first_rate_to_the_last(warmup: int) -> None:
    schedule = Schedule("cosine", (0.5, 0.3, 0.1), (), warmup, steps_per_epoch=10, epochs=10)
    start = max(warmup, 0)
    assert schedule(start) == pytest.approx(0.5)
    assert schedule(100) == pytest.approx(0.1)
    assert schedule((start + 100) // 2) == pytest.approx(0.3)
    for step in range(start, 101):
        phase = math.pi * (step - start) / (100 - start)
        assert schedule(step) == pytest.approx(0.1 + 0.4 * (1 + math.cos(phase)) / 2)
    assert schedule(150) == pytest.approx(0.1), "after the end it stays"


def test_cosine_warms_up_too() -> None:
    schedule = Schedule("cosine", (0.5, 0.1), (), 20, steps_per_epoch=10, epochs=10)
    assert [schedule(step) for step in (0, 5, 10, 20)] == pytest.approx([0, 0.125, 0.25, 0.5])


def test_cosine_with_one_rate_is_constant() -> None:
    schedule = Schedule("cosine", (0.2,), (), -1, 10, 3)
    assert {schedule(step) for step in range(30)} == {0.2}


def test_warm_up_as_long_as_the_run_is_no_division_by_zero() -> None:
    schedule = Schedule("cosine", (0.2, 0.1), (), 30, 10, 3)
    assert schedule(30) == 0.2 and 0.1 <= schedule(31) <= 0.2


def test_rate_depends_on_the_step_alone() -> None:
    """A resumed run asks for its first step without having asked for those before."""
    one, other = step_schedule(warmup=5), step_schedule(warmup=5)
    forward = [one(step) for step in range(80)]
    backward = [other(step) for step in reversed(range(80))]
    assert forward == backward[::-1] == [one(step) for step in range(80)]
