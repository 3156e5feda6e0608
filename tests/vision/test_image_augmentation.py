import pytest
import torch

from sentio.core.errors import ConfigError, InputError
from sentio.vision.augmentation import colour_jitter, cutout, horizontal_flip, padded_crop

BATCH = torch.rand(40, 3, 8, 10, generator=torch.Generator().manual_seed(0)) + 1
CHANGES = {
    "flip": lambda x, g: horizontal_flip(x, 0.5, g),
    "crop": lambda x, g: padded_crop(x, 2, g),
    "reflected crop": lambda x, g: padded_crop(x, 2, g, edge="reflect"),
    "cutout": lambda x, g: cutout(x, 0.5, g),
    "colour": lambda x, g: colour_jitter(x, 0.5, g),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_seed_says_everything_and_the_batch_stays(change):
    before = BATCH.clone()
    found = change(BATCH, seeded())
    assert found.shape == BATCH.shape
    assert torch.equal(found, change(BATCH, seeded()))
    assert not torch.equal(found, change(BATCH, seeded(1)))
    assert not torch.equal(found, BATCH)
    assert torch.equal(BATCH, before)
    assert found.is_contiguous()  # or a network's view() of its maps fails


def test_flipped_samples_are_mirrored_whole():
    found = horizontal_flip(BATCH, 0.5, seeded())
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(found, BATCH, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(found, BATCH, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30
    assert torch.equal(horizontal_flip(BATCH, 1.0, seeded()), BATCH.flip(3))
    assert torch.equal(horizontal_flip(BATCH, 0.0, seeded()), BATCH)


def shifted(image, down, right, edge):
    """The plain way, one sample at a time."""
    mode = "constant" if edge == "zero" else "reflect"
    around = torch.nn.functional.pad(image, (2, 2, 2, 2), mode=mode)
    return around[:, 2 + down : 10 + down, 2 + right : 12 + right]


@pytest.mark.parametrize("edge", ["zero", "reflect"])
def test_a_crop_is_one_of_the_windows_of_the_padded_image(edge):
    found = padded_crop(BATCH, 2, seeded(), edge=edge)
    seen = set()
    for new, old in zip(found, BATCH, strict=True):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(new, shifted(old, down, right, edge))
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 12
    assert padded_crop(BATCH, 0, seeded()) is BATCH


def test_a_cutout_is_a_square_that_may_reach_over_the_edge():
    found = cutout(BATCH, 0.5, seeded())
    hidden = (found == 0).all(1)
    assert torch.equal(found[~hidden[:, None].expand_as(found)], BATCH[~hidden[:, None].expand_as(found)])
    heights, widths = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), heights * widths)  # one rectangle
    assert heights.max() == widths.max() == 4
    assert heights.min() < 4
    assert torch.equal(cutout(BATCH, 0.0, seeded()), BATCH)


def test_colours_stay_about_their_mean():
    found = colour_jitter(BATCH, 0.2, seeded())
    moved = (found.mean((1, 2, 3)) - BATCH.mean((1, 2, 3))).abs()
    assert moved.max() <= 0.2 + 1e-5
    grey = BATCH[:, :1]
    assert colour_jitter(grey, 0.2, seeded()).shape == grey.shape
    assert colour_jitter(BATCH, 0.0, seeded()) is BATCH


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: horizontal_flip(BATCH, 1.5), "share of mirrored images"),
        (lambda: padded_crop(BATCH, -1), "at least 0 pixels"),
        (lambda: padded_crop(BATCH, 8, edge="reflect"), "cannot be reflected by 8 pixels"),
        (lambda: padded_crop(BATCH, 1, edge="wrap"), "'zero' or 'reflect'"),
        (lambda: cutout(BATCH, 2.0), "side of a cutout"),
        (lambda: colour_jitter(BATCH, -0.1), "strength of a change of colour"),
    ],
)
def test_impossible_strengths_are_refused(call, said):
    with pytest.raises(ConfigError, match=said):
        call()


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"Images are \(batch, channel, height, width\)"):
        horizontal_flip(BATCH[0], 0.5)


@pytest.mark.parametrize("change", [horizontal_flip, padded_crop, cutout, colour_jitter])
@pytest.mark.parametrize("bad", ["0.5", None, float("nan")])
def test_a_strength_that_is_no_number_is_refused(change, bad):
    with pytest.raises(ConfigError, match="got"):
        change(torch.zeros(2, 3, 8, 8), bad)


def test_colours_of_whole_numbers_and_images_without_pixels():
    with pytest.raises(InputError, match=r"hold floats, got torch\.uint8"):
        colour_jitter(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 0.5)
    assert cutout(torch.zeros(2, 3, 0, 0), 0.5).shape == (2, 3, 0, 0)
