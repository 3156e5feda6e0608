"""Schedules against the figures of the sheets they come from."""

from __future__ import annotations

import math

import pytest

from sentio.training.schedules import cosine, cosine_cycle, linear, one_cycle, share
from sentio.training.sections import ScheduleSection


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1e-3), (50, 8.55018e-4), (100, 5.05e-4), (150, 1.54982e-4), (199, 1.00611e-5), (200, 1e-5)],
)
def test_cosine_with_a_floor_is_that_of_sp4asc(epoch, rate):
    """200 epochs from 1e-3 to 1e-5 (Puy et al., DCASE 2021)."""
    section = ScheduleSection(name="cosine", floor=0.01)
    assert 1e-3 * share(section, epoch, 200) == pytest.approx(rate, rel=5e-6)


@pytest.mark.parametrize(
    ("epoch", "value"),
    [(0, 0.01), (5, 0.505), (10, 1.0), (15, 0.505), (20, 0.01), (90, 1.0), (100, 0.01), (121, 0.01)],
)
def test_cosine_cycles_are_those_of_cp_jku(epoch, value):
    """Cycles of 20 epochs up to epoch 100, floor 0.01."""
    section = ScheduleSection(name="cosine-cycle", cycle_epochs=20, decay_start=100, floor=0.01)
    assert share(section, epoch, 150) == pytest.approx(value, abs=1e-12)


def test_a_cycle_that_has_begun_is_finished():
    assert cosine_cycle(110, 20, 101, 0.01) == pytest.approx(1.0)
    assert cosine_cycle(120, 20, 101, 0.01) == pytest.approx(0.01)
    assert [cosine_cycle(epoch, 20, 100, 0.01) for epoch in range(101, 130)] == [0.01] * 29


def test_linear_fall_after_an_exponential_rise():
    """PaSST in CP-JKU's DCASE system: 3 epochs of rise, 10 of fall from epoch 3 to 0.01."""
    section = ScheduleSection(name="linear", warmup_epochs=3, decay_start=3, decay_epochs=10, floor=0.01)
    found = [share(section, epoch, 25) for epoch in range(25)]
    assert found[0] == pytest.approx(math.exp(-5 * (5 / 6) ** 2))
    assert found[1] == pytest.approx(math.exp(-5 * (2 / 3) ** 2))
    assert found[2] == pytest.approx(math.exp(-5 / 9))
    assert found[3] == 1.0
    assert found[8] == pytest.approx(1 - 0.99 / 2)
    assert found[13:] == pytest.approx([0.01] * 12)


def test_linear_falls_over_all_that_is_left_unless_told():
    section = ScheduleSection(name="linear", warmup_epochs=2)
    assert [share(section, epoch, 10) for epoch in (2, 6, 10)] == pytest.approx([1.0, 0.5, 0.0])
    held = ScheduleSection(name="linear", decay_start=5)
    assert [share(held, epoch, 10) for epoch in (0, 5, 9)] == pytest.approx([1.0, 1.0, 0.2])
    late = ScheduleSection(name="linear", decay_start=50)
    assert share(late, 9, 10) == 1.0


def test_one_cycle_rises_and_falls_once():
    found = [one_cycle(epoch, 10, 3, 0.1) for epoch in range(11)]
    assert found[0] == pytest.approx(0.04)
    assert found[3] == pytest.approx(1.0) == max(found)
    assert found[10] == pytest.approx(0.1)
    assert found[:4] == sorted(found[:4])
    assert found[3:] == sorted(found[3:], reverse=True)
    section = ScheduleSection(name="one-cycle", floor=0.1)
    assert [share(section, epoch, 10) for epoch in range(11)] == pytest.approx(found)
    assert 0 < share(section, 0, 1) < 1


def test_no_share_leaves_zero_to_one():
    for name in ("cosine", "cosine-cycle", "linear", "one-cycle", "constant"):
        section = ScheduleSection(name=name, floor=0.05, warmup_epochs=3, decay_start=5, cycle_epochs=4)
        for epochs in (1, 2, 3, 30):
            assert all(0 < share(section, step / 4, epochs) <= 1 for step in range(4 * epochs))


def test_without_a_floor_the_cosine_is_the_one_it_was():
    assert [cosine(epoch, 6, 2) for epoch in range(3)] == pytest.approx([0.01, 0.505, 1.0])
    assert linear(4, 0, 4, 1) == 1.0
