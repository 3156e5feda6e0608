"""Stretching features along their axes."""

import pytest
import torch

from sentio.audio.augmentation import warp
from sentio.core.errors import ConfigError, InputError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(axis: int, samples: int = 64) -> torch.Tensor:
    """Every entry says where it lies along an axis, from -1 to 1."""
    shape = [samples, 1, 21, 21]
    line = [1, 1, 1, 1]
    line[axis] = 21
    return torch.linspace(-1, 1, 21).reshape(line).expand(shape).contiguous()


@pytest.mark.parametrize(("axis", "time", "frequency"), [(2, 0.5, 0.0), (3, 0.0, 0.5)])
def test_a_stretch_is_about_the_middle_and_within_its_limits(axis: int, time: float, frequency: float):
    x = ramp(axis)
    y = warp(x, time, frequency, seeded())
    middle, quarter = y.select(axis, 10).flatten(1), y.select(axis, 15).flatten(1)
    assert torch.allclose(middle, torch.zeros_like(middle), atol=1e-6)
    factors = 0.5 / quarter[:, 0]
    assert float(factors.min()) >= 1 / 1.5 - 1e-4 and float(factors.max()) <= 1.5 + 1e-4
    assert factors.unique().numel() > 50  # each sample by its own
    assert float(factors.log().mean().abs()) < 0.1  # as often squeezed as stretched
    # Linear in between: entry 15 lies half way to entry 20 while nothing is read beyond the end.
    stretched = factors > 1.01
    ends = y.select(axis, 20).flatten(1)[:, 0]
    assert torch.allclose(ends[stretched], 1 / factors[stretched], atol=1e-5)


def test_what_is_missing_is_mirrored_in_time_and_repeated_in_frequency():
    time = warp(ramp(2), 1.0, 0.0, seeded())[:, 0, :, 0]
    frequency = warp(ramp(3), 0.0, 1.0, seeded())[:, 0, 0]
    squeezed = time[:, 15] > 0.55
    assert squeezed.any()
    # Reading at 1 + d gives what is at 1 - d, for each sample's own d.
    beyond = 2 * time[squeezed, 15]
    assert torch.allclose(time[squeezed, 20], 2 - beyond, atol=1e-5)
    last = frequency[:, 20]
    assert float((last - 1).abs().min()) < 1e-6 and torch.allclose(frequency.amax(1), last, atol=1e-6)


def test_the_other_axis_is_left_alone():
    assert torch.allclose(warp(ramp(3), 0.5, 0.0, seeded()), ramp(3), atol=1e-6)
    assert torch.allclose(warp(ramp(2), 0.0, 0.5, seeded()), ramp(2), atol=1e-6)


def test_a_seed_decides_and_the_batch_is_not_changed():
    x = torch.randn(4, 1, 9, 7, generator=seeded(1))
    before = x.clone()
    assert torch.equal(warp(x, 0.2, 0.1, seeded(2)), warp(x, 0.2, 0.1, seeded(2)))
    assert not torch.equal(warp(x, 0.2, 0.1, seeded(2)), warp(x, 0.2, 0.1, seeded(3)))
    assert torch.equal(x, before)
    assert warp(x, 0.0, 0.0) is x
    assert warp(x[:0], 0.2, 0.2).shape == (0, 1, 9, 7)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="batch, channel, time, frequency"):
        warp(torch.zeros(3, 4), 0.1, 0.1)
    with pytest.raises(ConfigError, match=r"share in 0\.\.1, got 1\.5"):
        warp(torch.zeros(1, 1, 3, 4), 1.5, 0.1)


@pytest.mark.parametrize("bad", ["0.5", None, float("nan")])
def test_a_stretch_that_is_no_number_is_refused(bad):
    with pytest.raises(ConfigError, match="The largest stretch"):
        warp(torch.zeros(2, 1, 8, 8), bad, 0.1)


def test_a_picture_without_frames_stays():
    assert warp(torch.zeros(2, 1, 0, 8), 0.2, 0.2).shape == (2, 1, 0, 8)
