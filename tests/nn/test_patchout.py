"""Which patches stay."""

import pytest
import torch

from sentio.core.errors import ConfigError
from sentio.nn.patchout import draw_patchout

torch.set_num_threads(1)
GRID = (9, 12)  # a second of sound, frequency last


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [
        ({}, 108),
        ({"frequency": 6}, 54),
        ({"time": 2, "frequency": 3}, 7 * 9),
        ({"tokens": 50}, 58),
        ({"time": 1, "frequency": 2, "tokens": 10}, 8 * 10 - 10),
    ],
)
def test_how_many_stay_and_in_which_order(dropped, kept):
    keep = draw_patchout(GRID, **dropped, batch=3, generator=torch.Generator().manual_seed(0))
    assert keep.shape == (3, kept)
    assert keep.dtype == torch.int64
    assert (keep == keep[0]).all()
    assert (keep[0].diff() > 0).all()
    assert keep.min() >= 0
    assert keep.max() < 108


def test_structured_patchout_drops_whole_times_and_frequencies():
    keep = draw_patchout(GRID, time=2, frequency=6, generator=torch.Generator().manual_seed(3))[0]
    times, frequencies = set((keep // 12).tolist()), set((keep % 12).tolist())
    assert (len(times), len(frequencies)) == (7, 6)
    assert set(keep.tolist()) == {t * 12 + f for t in times for f in frequencies}


def test_nothing_dropped_keeps_all():
    assert draw_patchout(GRID)[0].tolist() == list(range(108))


def test_every_position_is_dropped_sometimes():
    generator = torch.Generator().manual_seed(0)
    draws = [draw_patchout((3, 4), frequency=2, generator=generator)[0] % 4 for _ in range(200)]
    often = torch.cat(draws).bincount(minlength=4) / (200 * 6)
    assert (often - 0.25).abs().max() < 0.05


def test_the_generator_decides():
    first, again, other = (
        draw_patchout(GRID, tokens=40, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ({"time": 9}, "0 to 8 of 9 time positions, got 9"),
        ({"frequency": -1}, "0 to 11 of 12 frequency positions, got -1"),
        ({"frequency": 6, "tokens": 54}, "0 to 53 single patches of the 54 left, got 54"),
    ],
)
def test_too_many_are_refused(dropped, message):
    with pytest.raises(ConfigError, match=message):
        draw_patchout(GRID, **dropped)
