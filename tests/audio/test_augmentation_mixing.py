"""MixStyle and Freq-MixStyle, mixup's variants, and masks that keep what they hide or count it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from sentio.audio.augmentation import (  # noqa: E402
    freq_mixstyle,
    frequency_mask,
    mixstyle,
    mixup,
    random_erasing,
    time_mask,
)
from sentio.audio.augmentation_mixing import CHANNEL, FREQUENCY, TIME, with_style_of  # noqa: E402
from sentio.core.errors import ConfigError, InputError  # noqa: E402

BAND, PLANE = (CHANNEL, TIME), (TIME, FREQUENCY)


def batch(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (8, 1, 50, 12)), generator=generator, dtype=torch.float64) * 3 + 1


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def restyled(x: torch.Tensor, lam: float, partners: list[int], axes: tuple[int, ...] = BAND) -> torch.Tensor:
    return with_style_of(x, torch.tensor(partners), torch.full((len(x),), lam, dtype=torch.float64), axes)


def test_the_worked_example_of_freq_mixstyle() -> None:
    """Bands are rows of the example, and columns here; unbiased variances, eps 1e-6, weight 1/4."""
    a = torch.tensor([[1.0, 3], [0, 0]], dtype=torch.float64)
    b = torch.tensor([[10.0, 10], [4, 8]], dtype=torch.float64)
    found = restyled(torch.stack([a.T, b.T])[:, None], 0.25, [1, 0])
    assert found[0, 0].T.numpy() == pytest.approx(
        torch.tensor([[7.7495, 8.2505], [4.5, 4.5]]).numpy(), abs=6e-5
    )
    assert found[1, 0].T.numpy() == pytest.approx(torch.tensor([[4, 4], [0.9995, 2.0005]]).numpy(), abs=6e-5)


@pytest.mark.parametrize("axes", [BAND, PLANE])
def test_a_weight_of_1_or_a_sample_of_itself_changes_nothing(axes: tuple[int, ...]) -> None:
    x = batch()
    assert torch.allclose(restyled(x, 1.0, list(range(8))[::-1], axes), x, atol=1e-13)
    assert torch.allclose(restyled(x, 0.3, list(range(8)), axes), x, atol=1e-13)


def test_statistics_of_bands_become_the_mixture() -> None:
    x = batch(4, 2, 60, 12)
    partners = [2, 3, 1, 0]
    found = restyled(x, 0.3, partners)
    mean, deviation = x.mean(dim=BAND), x.std(dim=BAND)
    assert torch.allclose(found.mean(dim=BAND), 0.3 * mean + 0.7 * mean[partners], atol=1e-12)
    assert torch.allclose(found.std(dim=BAND), 0.3 * deviation + 0.7 * deviation[partners], rtol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_a_device_counts_by_its_weight_only(lam: float) -> None:
    """A linear device adds a constant to each band; Freq-MixStyle leaves lam of it, MixStyle does not."""
    x = batch(2, 1, 50, 12)
    device = batch(1, 1, 1, 12, seed=5)
    heard = x.clone()
    heard[:1] += device
    change = restyled(heard, lam, [1, 0])[0] - restyled(x, lam, [1, 0])[0]
    assert torch.allclose(change, lam * device[0].expand_as(change), atol=1e-12)
    plain = restyled(heard, lam, [1, 0], PLANE)[0] - restyled(x, lam, [1, 0], PLANE)[0]
    residual = (plain - lam * device[0]).abs().max()
    assert residual > 0.3 * device.abs().max() or lam == 1.0


def test_no_gradient_flows_through_statistics() -> None:
    x = batch(3, 1, 20, 5).requires_grad_(True)
    partners = [1, 2, 0]
    restyled(x, 0.4, partners).sum().backward()
    deviation = (x.detach().var(dim=BAND, keepdim=True) + 1e-6).sqrt()
    mixed = 0.4 * deviation + 0.6 * deviation[partners]
    assert torch.allclose(x.grad, (mixed / deviation).expand_as(x))


@pytest.mark.parametrize("change", [mixstyle, freq_mixstyle])
def test_styles_are_drawn_for_each_sample_and_repeat_with_a_seed(change: Callable[..., torch.Tensor]) -> None:
    x = batch().float()
    kept = x.clone()
    found = change(x, 0.4, seeded())
    assert found.shape == x.shape and found.dtype == x.dtype
    assert torch.equal(found, change(x, 0.4, seeded())) and torch.equal(x, kept)
    assert not torch.equal(found, change(x, 0.4, seeded(2)))
    for same in (change(x, 0.0, seeded()), change(x, 0.4, seeded(), probability=0.0)):
        assert torch.equal(same, x)
    assert change(x[:, :, :1, :1], 0.4, seeded()).isfinite().all()
    generator = seeded()
    used = sum(not torch.equal(change(x, 0.4, generator, probability=0.3), x) for _ in range(300))
    assert used == pytest.approx(90, abs=30)


def test_the_two_styles_are_their_axes() -> None:
    x = batch()
    generator = seeded()
    partners = torch.randperm(8, generator=generator)
    weights = {}
    for change, axes in ((mixstyle, PLANE), (freq_mixstyle, BAND)):
        found = change(x, 0.4, seeded())
        mean = x.mean(dim=axes)
        weight = (found.mean(dim=axes) - mean[partners]) / (mean - mean[partners])
        moved = partners != torch.arange(8)
        weight = weight[moved].reshape(int(moved.sum()), -1)
        # One weight for all bands of a sample, another for each sample.
        assert torch.allclose(weight, weight[:, :1].expand_as(weight), atol=1e-9)
        assert ((weight >= -1e-9) & (weight <= 1 + 1e-9)).all() and len(weight[:, 0].unique()) > 1
        weights[change.__name__] = weight[:, 0]
    assert torch.allclose(weights["mixstyle"], weights["freq_mixstyle"])


@pytest.mark.parametrize("change", [mixstyle, freq_mixstyle])
def test_styles_refuse_what_does_not_fit(change: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"\(batch, channel, time, frequency\), got shape \(1, 50, 12\)"):
        change(batch()[0], 0.4)
    with pytest.raises(ConfigError, match="alpha must be a number"):
        change(batch(), -0.4)
    with pytest.raises(ConfigError, match=r"probability must lie in 0\.\.1, got 1\.5"):
        change(batch(), 0.4, probability=1.5)


# mixup


STATISTICS = [
    (0.1, 0.208333, 0.941576, 0.813),
    (0.2, 0.178571, 0.898810, 0.673),
    (0.3, 0.15625, 0.865943, 0.565),
    (0.4, 0.138889, 0.839758, 0.480),
    (1.0, 0.083333, 0.75, 0.2),
]


@pytest.mark.parametrize(("alpha", "variance", "larger_mean", "above"), STATISTICS)
def test_weights_of_mixup_have_the_known_statistics(
    alpha: float, variance: float, larger_mean: float, above: float
) -> None:
    """Each sample is its number's weight; 40,000 draws tell these figures to about half a per cent."""
    x = torch.arange(40_000, dtype=torch.float64)[:, None]
    mixed, _ = mixup(x, x, alpha, seeded(), per_sample=True)
    partners = torch.randperm(len(x), generator=seeded()).double()[:, None]
    moved = (partners != x).flatten()
    lam = ((mixed - partners) / (x - partners))[moved]
    assert float(lam.var()) == pytest.approx(variance, rel=0.02)
    assert float(torch.maximum(lam, 1 - lam).mean()) == pytest.approx(larger_mean, abs=0.004)
    assert float((torch.maximum(lam, 1 - lam) > 0.9).double().mean()) == pytest.approx(above, abs=0.012)
    larger, _ = mixup(x, x, alpha, seeded(), per_sample=True, larger=True)
    found = ((larger - partners) / (x - partners))[moved]
    assert torch.allclose(found, torch.maximum(lam, 1 - lam), atol=1e-6)


def test_both_orders_of_a_pair_add_up_and_losses_are_mixed_as_targets_are() -> None:
    x, targets = batch(2, 1, 5, 5), torch.eye(10, dtype=torch.float64)[[3, 7]]
    for seed in range(20):
        mixed, soft = mixup(x, targets, 0.5, seeded(seed))
        if not torch.equal(mixed, x):
            break
    assert torch.allclose(mixed.sum(0), x.sum(0))
    lam = soft[0, 3]
    logits = batch(1, 10)[0]
    both = [-torch.log_softmax(logits, 0)[label] for label in (3, 7)]
    loss = -(soft[0] * torch.log_softmax(logits, 0)).sum()
    assert 0 < lam < 1 and torch.allclose(loss, lam * both[0] + (1 - lam) * both[1])


def test_the_limits_of_alpha() -> None:
    x = torch.eye(200, dtype=torch.float64)
    little, _ = mixup(x, x, 1e-3, seeded(), per_sample=True)
    assert (little.max(dim=1).values > 0.99).double().mean() > 0.97
    halves, _ = mixup(x, x, 1e6, seeded(), per_sample=True)
    assert torch.allclose(
        halves.max(dim=1).values, torch.where(halves.diagonal() > 0.9, 1.0, 0.5).double(), atol=0.01
    )


def test_mixup_leaves_batches_out_with_its_probability() -> None:
    x, generator = torch.eye(16), seeded()
    used = sum(not torch.equal(mixup(x, x, 1.0, generator, probability=0.5)[0], x) for _ in range(300))
    assert used == pytest.approx(150, abs=35)
    same, soft = mixup(x, x, 1.0, seeded(), probability=0.0)
    assert torch.equal(same, x) and torch.equal(soft, x)
    with pytest.raises(ConfigError, match="probability"):
        mixup(x, x, 1.0, probability=-0.1)


# masks


def masked_share(change: Callable[..., torch.Tensor], width: int, size: int, **options: object) -> float:
    """The expected share of masked places with two masks."""
    shape = (20_000, 1, size, 1) if change is time_mask else (20_000, 1, 1, size)
    found = change(torch.zeros(shape), width / size, seeded(), count=2, fill=1.0, **options)
    return float(found.mean())


@pytest.mark.parametrize(
    ("change", "width", "size", "exclusive", "inclusive"),
    [
        (time_mask, 128, 431, 0.270163, 0.272137),
        (frequency_mask, 32, 256, 0.117240, 0.120904),
        (frequency_mask, 16, 256, 0.057714, 0.061502),
    ],
)
def test_two_masks_hide_what_specaugment_of_sp4asc_expects(
    change: Callable[..., torch.Tensor], width: int, size: int, exclusive: float, inclusive: float
) -> None:
    assert masked_share(change, width, size, exclusive=True) == pytest.approx(exclusive, rel=0.01)
    assert masked_share(change, width, size) == pytest.approx(inclusive, rel=0.01)


@pytest.mark.parametrize(("width", "area"), [(32, 0.355729), (16, 0.312285)])
def test_both_kinds_of_masks_hide_the_expected_area(width: int, area: float) -> None:
    """Times and bands are drawn independently, so a row of each tells what share of the whole is hidden."""
    generator, options = seeded(), {"count": 2, "fill": 1.0, "exclusive": True}
    times = time_mask(torch.zeros(20_000, 1, 431, 1), 128 / 431, generator, **options).mean(dim=(1, 2, 3))
    bands = frequency_mask(torch.zeros(20_000, 1, 1, 256), width / 256, generator, **options).mean(
        dim=(1, 2, 3)
    )
    assert float((1 - (1 - times) * (1 - bands)).mean()) == pytest.approx(area, rel=0.01)
    x = torch.zeros(1, 1, 431, 256)
    both = frequency_mask(time_mask(x, 0.3, seeded(), fill=1.0), width / 256, seeded(3), fill=1.0)
    time, band = both[0, 0, :, both[0, 0].mean(0).argmin()], both[0, 0, both[0, 0].mean(1).argmin()]
    assert both.sum() == 431 * 256 - (431 - time.sum()) * (256 - band.sum())


def test_an_exclusive_mask_never_has_the_widest_width() -> None:
    x = torch.zeros(500, 1, 20, 1)
    for exclusive, widest in ((False, 4), (True, 3)):
        widths = time_mask(x, 0.2, seeded(), fill=1.0, exclusive=exclusive).sum(dim=2)
        assert widths.min() == 0 and widths.max() == widest
    assert torch.equal(time_mask(x, 0.0, seeded(), fill=1.0, exclusive=True), x)


@pytest.mark.parametrize("change", [time_mask, frequency_mask])
def test_the_mean_of_the_region_keeps_its_sum(change: Callable[..., torch.Tensor]) -> None:
    x = batch(30, 2, 20, 12)
    found = change(x, 0.5, seeded(), count=3, fill="region")
    assert torch.allclose(found.sum(dim=PLANE), x.sum(dim=PLANE))
    assert (found != x).any()
    once = change(x, 0.5, seeded(), fill="region")
    axis = TIME if change is time_mask else FREQUENCY
    for before, after in zip(x, once, strict=True):
        rows = (before != after).any(dim=0).any(dim=FREQUENCY - axis).nonzero().flatten()
        if len(rows):
            region = after.index_select(axis - 1, rows)
            wanted = before.index_select(axis - 1, rows).mean(dim=(1, 2), keepdim=True)
            assert torch.allclose(region, wanted.expand_as(region))
            assert len(rows) == rows.max() - rows.min() + 1
    with pytest.raises(ConfigError, match="'mean', 'region' or a number, got 'median'"):
        change(x, 0.5, seeded(), fill="median")


def test_an_erased_rectangle_is_one_and_keeps_its_sum_if_asked() -> None:
    x = batch(400, 2, 20, 12)
    found = random_erasing(x, 0.5, seeded(), max_fraction=0.5, fill=99.0)
    hidden = found == 99.0
    assert torch.equal(hidden[:, 0], hidden[:, 1]) and torch.equal(found[~hidden], x[~hidden])
    times, bands = hidden[:, 0].any(dim=2), hidden[:, 0].any(dim=1)
    # Number of hidden cells is the product of the sides, which are spans.
    assert torch.equal(hidden[:, 0].sum(dim=(1, 2)), times.sum(1) * bands.sum(1))
    assert times.sum(1).max() == 10 and bands.sum(1).max() == 6
    for lines in (times, bands):
        assert lines.int().diff(dim=1, prepend=torch.zeros(400, 1)).eq(1).sum(1).max() == 1
    # Both sides are 0 with 1/11 and 1/7.
    assert float(times.any(1).double().mean()) == pytest.approx(0.5 * 10 / 11 * 6 / 7, abs=0.07)
    kept = random_erasing(x, 1.0, seeded(), fill="region")
    assert torch.allclose(kept.sum(dim=PLANE), x.sum(dim=PLANE)) and not torch.equal(kept, x)
    assert torch.equal(random_erasing(x, 0.0, seeded()), x)
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.1"):
        random_erasing(x, 1.5)
