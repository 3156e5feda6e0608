"""Exact properties of the augmentations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from sentio.audio.augmentation import (  # noqa: E402
    frequency_mask,
    frequency_shift,
    gain,
    mixup,
    time_mask,
    time_roll,
)
from sentio.core.errors import ConfigError, InputError  # noqa: E402

SHAPE = (64, 2, 20, 10)


def batch() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", [time_roll, time_mask, frequency_mask, frequency_shift])
def test_a_share_of_0_changes_nothing_and_a_seed_repeats(change: Callable[..., torch.Tensor]) -> None:
    x = batch()
    kept = x.clone()
    assert torch.equal(change(x, 0.0, seeded()), x)
    once = change(x, 0.5, seeded())
    assert once.shape == x.shape and once.dtype == x.dtype
    assert torch.equal(once, change(x, 0.5, seeded()))
    assert not torch.equal(once, change(x, 0.5, seeded(2)))
    assert not torch.equal(once, x) and torch.equal(x, kept)
    assert change(x, 0.5).shape == x.shape


@pytest.mark.parametrize("change", [time_roll, time_mask, frequency_mask, frequency_shift])
def test_wrong_arguments_are_refused(change: Callable[..., torch.Tensor]) -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"must lie in 0\.\.1"):
            change(batch(), share, seeded())
    with pytest.raises(InputError, match=r"are \(batch, channel, time, frequency\), got shape \(64, 2, 20\)"):
        change(batch()[..., 0], 0.5, seeded())


def test_a_roll_is_a_permutation_of_frames_within_its_bounds() -> None:
    x = batch()
    rolled = time_roll(x, 0.25, seeded())
    shifts = []
    for before, after in zip(x, rolled, strict=True):
        fits = [s for s in range(-10, 10) if torch.equal(torch.roll(before, s, dims=1), after)]
        assert len(fits) == 1
        shifts += fits
    assert min(shifts) == -5 and max(shifts) == 5


@pytest.mark.parametrize(("change", "axis", "size"), [(time_mask, 2, 20), (frequency_mask, 3, 10)])
def test_masks_are_spans_within_their_bounds(
    change: Callable[..., torch.Tensor], axis: int, size: int
) -> None:
    x = torch.cat([batch()] * 8)
    found = change(x, 0.4, seeded(), fill=7.0)
    hidden = found == 7.0
    assert torch.equal(found[~hidden], x[~hidden])
    lines = hidden.movedim(axis, 1).flatten(2)
    # A place on the axis is masked in all channels and along the whole of the other axis, or not at all.
    assert torch.equal(lines.all(dim=2), lines.any(dim=2))
    spans = lines.all(dim=2).int()
    widths = spans.sum(dim=1)
    assert widths.min() == 0 and widths.max() == int(0.4 * size)
    edges = spans.diff(dim=1, prepend=spans.new_zeros(len(spans), 1)).eq(1).sum(dim=1)
    assert torch.equal(edges, (widths > 0).int())
    assert spans[:, 0].any() and spans[:, -1].any()


def test_masks_fill_with_the_samples_mean_unless_told() -> None:
    x = batch() + torch.arange(64.0)[:, None, None, None]
    found = time_mask(x, 1.0, seeded())
    changed = found != x
    means = x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x)
    assert changed.any() and torch.equal(found[changed], means[changed])


def test_several_masks_are_drawn_independently() -> None:
    def hidden(count: int) -> torch.Tensor:
        return (frequency_mask(batch(), 0.2, seeded(), count=count, fill=7.0) == 7.0).any(dim=(1, 2))

    assert torch.equal(frequency_mask(batch(), 0.5, seeded(), count=0), batch())
    assert hidden(1).sum(dim=1).max() == 2
    assert 2 < hidden(3).sum(dim=1).max() <= 6
    assert (hidden(3) | ~hidden(1)).all()
    with pytest.raises(ConfigError, match="must be at least 0, got -1"):
        time_mask(batch(), 0.5, seeded(), count=-1)


def targets() -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.arange(64) % 5, 5).float()


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_is_a_convex_combination_with_one_partner(per_sample: bool) -> None:
    # Samples that are the rows of the identity carry their own weights.
    x = torch.eye(64).reshape(64, 1, 8, 8)
    mixed, soft = mixup(x, targets(), 1.0, seeded(), per_sample=per_sample)
    weights = mixed.flatten(1)
    assert (weights >= 0).all() and ((weights > 0).sum(dim=1) <= 2).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(soft, weights @ targets())
    lam = weights.diagonal()[(weights > 0).sum(dim=1) == 2]
    assert (len(lam.unique()) > 1) is per_sample
    if not per_sample:
        # Partners are a permutation, so the batch as a whole keeps its sum.
        torch.testing.assert_close(weights.sum(dim=0), torch.ones(64))


def test_mixup_draws_its_weight_from_a_beta_distribution() -> None:
    x = torch.eye(1000)
    for alpha in (0.2, 1.0):
        weights, _ = mixup(x, x, alpha, seeded(), per_sample=True)
        lam = weights.diagonal()[weights.diagonal() < 1]
        # The variance of Beta(a, a) is 1 / (4 (2a + 1)); 1000 draws tell it to a few per cent.
        assert lam.mean() == pytest.approx(0.5, abs=0.05)
        assert lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.12)


def test_mixup_repeats_with_a_seed_and_alpha_0_changes_nothing() -> None:
    x = batch()
    first, again, other = (mixup(x, targets(), 0.4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    same, hard = mixup(x, targets(), 0.0, seeded())
    assert torch.equal(same, x) and torch.equal(hard, targets())


def test_a_share_that_rounds_below_a_whole_frame_is_that_frame() -> None:
    x = torch.randn(4000, 1, 100, 2)  # 0.29 * 100 is 28.999999999999996
    hidden = (time_mask(x, 0.29, seeded(), fill=9.0) == 9).all(dim=3).sum(dim=2)
    assert hidden.max() == 29


@pytest.mark.parametrize("change", [time_roll, time_mask, frequency_mask, frequency_shift, gain])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_whole_numbers_are_refused(change: Callable[..., torch.Tensor], dtype: torch.dtype) -> None:
    # Drawn weights and gains would be rounded to 0, and nobody would see it.
    x = torch.randint(0, 200, (4, 1, 8, 6)).to(dtype)
    with pytest.raises(InputError, match="A batch that is augmented holds floats, got torch"):
        change(x, 0.5, seeded())
    with pytest.raises(InputError, match="A batch that is augmented holds floats, got torch"):
        mixup(x, torch.eye(4), 0.3, seeded())


def test_mixup_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"alpha must be a number of at least 0, got -1\.0"):
        mixup(batch(), targets(), -1.0, seeded())
    with pytest.raises(InputError, match="a target for each of the 64 samples, got 63"):
        mixup(batch(), targets()[1:], 0.3, seeded())
    with pytest.raises(InputError, match=r"needs float targets, e\.g\. one-hot, got torch\.int64"):
        mixup(batch(), targets().long(), 0.3, seeded())


def test_a_shift_moves_bands_and_repeats_the_outermost() -> None:
    x = batch()
    moved = frequency_shift(x, 0.3, seeded())
    bands = torch.arange(SHAPE[3])
    seen = set()
    for before, after in zip(x, moved, strict=True):
        shift = next(
            s for s in range(-3, 4) if torch.equal(after, before[:, :, (bands - s).clamp(0, SHAPE[3] - 1)])
        )
        seen.add(shift)
    assert seen == set(range(-3, 4))


def test_gain_adds_one_bounded_number_to_each_sample() -> None:
    x = batch()
    added = gain(x, 0.5, seeded()) - x
    flat = added.flatten(1)
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat), atol=1e-6, rtol=0)
    assert flat.abs().max() <= 0.5 + 1e-6 and flat[:, 0].std() > 0.1
    assert torch.equal(gain(x, 0.0, seeded()), x)
    for most in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="loudness"):
            gain(x, most)
    with pytest.raises(InputError):
        gain(x[0], 0.1)


@pytest.mark.parametrize("bad", ["0.5", None, [0.1], float("nan")])
def test_a_strength_that_is_no_number_is_refused(bad: object) -> None:
    x = batch()
    changes: list[Callable[[], object]] = [
        lambda: time_mask(x, bad),
        lambda: time_mask(x, 0.2, count=bad),
        lambda: time_mask(x, 0.2, fill=bad if bad is not None else "none"),
        lambda: gain(x, bad),
        lambda: mixup(x, targets(), bad),
        lambda: mixup(x, targets(), 0.3, probability=bad),
    ]
    for change in changes:
        with pytest.raises(ConfigError, match="got"):
            change()
