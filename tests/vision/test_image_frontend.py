"""Images made here, read back as pixels of one size."""

import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, MissingExtraError
from sentio.core.features import finished
from sentio.vision.images import ImageFrontEnd
from sentio.vision.pictures import picture_size, read_picture

Image = pytest.importorskip("PIL.Image")
NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def test_a_lossless_file_comes_out_as_it_was_written(tmp_path):
    frontend = ImageFrontEnd(height=12, width=20)
    for name in ("a.png", "a.bmp", "a.ppm", "a.tif"):
        prepared = frontend.prepare(save(tmp_path / name, NOISE))
        assert prepared.inputs.dtype == np.uint8
        assert prepared.inputs.shape == (1, 3, 12, 20)
        assert np.array_equal(prepared.inputs[0].transpose(1, 2, 0), NOISE)
        assert prepared.notes == ()
        assert prepared.silent.tolist() == [False]
        assert prepared.starts.tolist() == prepared.ends.tolist() == [0.0]


def test_pixels_are_taken_like_a_file(tmp_path):
    for colour in ("rgb", "grey"):
        frontend = ImageFrontEnd(height=8, width=8, colour=colour)
        file = frontend.prepare(save(tmp_path / "a.png", NOISE)).inputs
        assert np.array_equal(frontend.prepare(NOISE).inputs, file)
    grey = NOISE[:, :, 0]
    rgb = ImageFrontEnd(height=12, width=20).prepare(grey).inputs
    assert all(np.array_equal(rgb[0, channel], grey) for channel in range(3))


def test_finishing_standardises_each_channel():
    frontend = ImageFrontEnd(height=12, width=20, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    pixels = frontend.prepare(NOISE).inputs
    found = finished(frontend, pixels)
    assert found.dtype == np.float32
    for channel, (mean, std) in enumerate(zip(frontend.mean, frontend.std, strict=True)):
        np.testing.assert_allclose(
            found[0, channel], (NOISE[:, :, channel] / 255 - mean) / std, rtol=1e-5, atol=1e-6
        )
    assert finished(frontend, found) is found  # features that are numbers already stay
    assert finished(None, pixels) is pixels


def test_fitting_gives_features_of_mean_0_and_deviation_1():
    pixels = np.random.default_rng(1).integers(0, 200, (50, 3, 8, 8), np.uint8)
    pixels[:, 2] = 7
    found = ImageFrontEnd(height=8, width=8).fitted(pixels)
    values = found.finish(pixels)
    np.testing.assert_allclose(values.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(values.std((0, 2, 3))[:2], 1, atol=1e-4)
    assert found.std[2] == 1 / 255  # a channel that never changes does not divide by nothing


def stripes(height, width):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return pixels


def test_cropping_keeps_the_middle_at_scale():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    found = ImageFrontEnd(height=4, width=4).prepare(wide).inputs[0]
    assert found.min() > 150  # the middle third; a filter as wide as two pixels sees a little beside it
    zoomed = ImageFrontEnd(height=4, width=4, zoom=2.0).prepare(stripes(8, 8)).inputs[0]
    assert zoomed[0, :, 0].min() == 255
    assert zoomed[2, :, 3].min() == 255
    same = ImageFrontEnd(height=8, width=24).prepare(wide).inputs[0]
    assert np.array_equal(same.transpose(1, 2, 0), wide)


def test_rounding_does_not_push_the_middle_out_of_the_picture():
    for short in (98, 197, 237):  # 32 divided by 32 / short is a little more than short
        for size in ((short, 300), (300, short)):
            frontend = ImageFrontEnd(height=32, width=32)
            left, top, right, bottom = frontend.placement(size).box
            assert left >= 0 and top >= 0 and right <= size[1] and bottom <= size[0]
            assert frontend.prepare(np.zeros((*size, 3), np.uint8)).inputs.shape == (1, 3, 32, 32)


def test_stretching_keeps_all_and_padding_puts_black_around():
    pixels = np.full((8, 16, 3), 255, np.uint8)
    pixels[:, :4] = 100
    stretched = ImageFrontEnd(height=8, width=8, resize="stretch").prepare(pixels).inputs[0, 0]
    assert stretched[:, 0].max() < 140
    assert stretched[:, -1].min() == 255
    padded = ImageFrontEnd(height=8, width=8, resize="pad").prepare(pixels).inputs[0, 0]
    assert (padded[:2] == 0).all()
    assert (padded[6:] == 0).all()
    assert (padded[2:6, 4:] == 255).all()


def test_an_image_of_one_colour_is_silent():
    frontend = ImageFrontEnd(height=8, width=8)
    assert frontend.prepare(np.full((8, 8, 3), [10, 80, 200], np.uint8)).silent.tolist() == [True]
    padded = ImageFrontEnd(height=8, width=8, resize="pad")  # the black around it is no part of it
    assert padded.prepare(np.full((4, 8, 3), [10, 80, 200], np.uint8)).silent.tolist() == [True]
    assert padded.prepare(NOISE).silent.tolist() == [False]


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    path = save(tmp_path / "a.png", NOISE, exif=exif)
    pixels, notes = read_picture(path)
    assert np.array_equal(pixels, np.rot90(NOISE, -1))
    assert notes == ()


def test_odd_images_are_used_with_a_note(tmp_path):
    clear = np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)])
    pixels, notes = read_picture(save(tmp_path / "opaque.png", clear))
    assert np.array_equal(pixels, NOISE)
    assert notes == ()
    clear[:4, :, 3] = 0
    pixels, notes = read_picture(save(tmp_path / "clear.png", clear))
    assert (pixels[:4] == 0).all()
    assert np.array_equal(pixels[4:], NOISE[4:])
    assert "clear.png is transparent in parts" in notes[0]
    _, notes = read_picture(save(tmp_path / "a.jpg", NOISE, mode="CMYK"))
    assert "a.jpg is in the colours of a printer (CMYK)" in notes[0]
    other = Image.fromarray(NOISE[::-1].copy())
    path = save(tmp_path / "a.tif", NOISE, save_all=True, append_images=[other])
    pixels, notes = read_picture(path)
    assert np.array_equal(pixels, NOISE)
    assert "holds 2 pictures; the first one is used" in notes[0]
    deep = (NOISE[:, :, 0].astype(np.uint16) << 8) + 77
    pixels, notes = read_picture(save(tmp_path / "deep.png", deep), grey=True)
    assert np.array_equal(pixels[:, :, 0], NOISE[:, :, 0])
    assert "16 bits per pixel" in notes[0]


def test_a_palette_with_a_transparent_colour_is_read(tmp_path):
    image = Image.fromarray(NOISE).quantize(8)
    image.save(tmp_path / "a.gif", transparency=0)
    pixels, notes = read_picture(tmp_path / "a.gif")
    assert pixels.shape == NOISE.shape
    assert "transparent in parts" in notes[0]


def test_what_is_no_image_is_refused_in_one_sentence(tmp_path):
    frontend = ImageFrontEnd()
    with pytest.raises(InputError, match="There is no image file"):
        frontend.prepare(tmp_path / "none.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"empty\.jpg is empty"):
        frontend.prepare(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_bytes(b"not an image at all" * 50)
    with pytest.raises(InputError, match=r"text\.jpg is no image that can be read"):
        frontend.prepare(tmp_path / "text.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.tif"])
def test_a_file_that_ends_too_early_is_refused(tmp_path, name):
    whole = save(tmp_path / name, np.tile(NOISE, (6, 6, 1))).read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"is damaged \(|is no image that can be read"):
            read_picture(tmp_path / name)


def test_a_file_that_may_not_be_opened_is_refused(tmp_path, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))

    path = save(tmp_path / "a.png", NOISE)
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(InputError, match=r"a\.png cannot be opened: Permission denied; check the file"):
        read_picture(path)


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="has too many pixels"):
        read_picture(save(tmp_path / "a.png", NOISE))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (3, "An image is a path or pixels, uint8"),
        (np.full((8, 8, 3), np.nan, np.float32), "NaN or infinite"),
        (np.zeros((8, 8, 3), np.float32), "An image is uint8 of shape"),
        (np.zeros((3, 8, 8), np.uint8), "An image is uint8 of shape"),
        (np.zeros((0, 8, 3), np.uint8), "An image is uint8 of shape"),
    ],
)
def test_other_sources_are_refused(source, said):
    with pytest.raises(InputError, match=said):
        ImageFrontEnd().prepare(source)


def test_an_image_has_no_hop():
    with pytest.raises(ConfigError, match="an image is all of one"):
        ImageFrontEnd().prepare(NOISE, hop=0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"height": 0}, "height must be a whole number"),
        ({"width": 2.5}, "width must be a whole number"),
        ({"resize": "fit"}, "resize must be"),
        ({"colour": "bgr"}, "colour must be"),
        ({"zoom": 0.5}, "zoom must be a number from 1 on"),
        ({"zoom": 2.0, "resize": "pad"}, "zoom goes with resize 'crop'"),
        ({"mean": 0.5}, "give mean and std, or neither"),
        ({"mean": 0.5, "std": 0.0}, "std must be above 0"),
        ({"mean": [0.5, 0.5], "std": 1.0}, "mean is a number, or 3 of them"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=f"Image settings: .*{said}"):
        registry.build("frontend", "image", **settings)


def test_settings_build_it_again():
    frontend = ImageFrontEnd(height=28, width=30, colour="grey", resize="pad", mean=0.5, std=0.25)
    assert registry.build("frontend", "image", **frontend.settings()) == frontend
    assert frontend.input_shapes == {"main": (1, 28, 30)}


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", NOISE)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="Pillow, which image files need"):
        read_picture(path)
    assert ImageFrontEnd(height=12, width=20).prepare(NOISE).inputs.shape == (1, 3, 12, 20)


@pytest.mark.parametrize("turn", [None, 1, 3, 6, 8])
def test_the_size_of_a_file_is_that_of_its_upright_pixels(tmp_path, turn):
    exif = Image.Exif()
    if turn is not None:
        exif[0x0112] = turn
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        path = save(tmp_path / name, NOISE, exif=exif)
        size = (20, 12) if turn in (6, 8) else (12, 20)
        assert picture_size(path) == read_picture(path)[0].shape[:2] == size
    (tmp_path / "b.png").write_bytes(b"nonsense")
    for name in ("b.png", "none.png"):
        with pytest.raises(InputError, match="is no image that can be read"):
            picture_size(tmp_path / name)


def test_the_size_of_a_file_of_too_many_pixels_is_refused_as_its_pixels_are(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", NOISE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 20 // 2 - 1)
    for read in (read_picture, picture_size):
        with pytest.raises(InputError, match=r"a\.png has too many pixels \(.*\); scale it down"):
            read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 20 // 2)  # Pillow only warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture_size(path) == (12, 20)


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(12, 20), (24, 40), (9, 31)])
def test_a_spot_lies_where_the_placement_says(resize, size):
    """A bright block in the middle third, far enough from the borders that no resize cuts it off."""
    height, width = size
    pixels = np.zeros((*size, 3), np.uint8)
    rows, columns = slice(height // 3, 2 * height // 3), slice(2 * width // 5, 3 * width // 5)
    pixels[rows, columns] = 255
    frontend = ImageFrontEnd(height=36, width=36, resize=resize)
    seen = frontend.prepare(pixels).inputs[0, 0].astype(float)
    across, down = (np.arange(36) + 0.5) @ seen.sum(0), (np.arange(36) + 0.5) @ seen.sum(1)
    middle = ((columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2)
    (spot,) = frontend.placement(size).points([middle])
    assert np.allclose(spot, np.array([across, down]) / seen.sum(), atol=0.35)


def test_a_picture_in_lab_is_converted(tmp_path):
    cms = pytest.importorskip("PIL.ImageCms")
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10], pixels[10:] = (200, 30, 60), (20, 120, 240)
    profiles = cms.createProfile("sRGB"), cms.createProfile("LAB")
    cms.profileToProfile(Image.fromarray(pixels), *profiles, outputMode="LAB").save(tmp_path / "lab.tif")
    found, notes = read_picture(tmp_path / "lab.tif")
    assert notes == ()
    np.testing.assert_allclose(found.astype(int), pixels, atol=5)
    assert read_picture(tmp_path / "lab.tif", grey=True)[0].shape == (20, 30, 1)


def test_a_box_of_jpeg_2000_that_goes_on_for_petabytes(tmp_path):
    content = io.BytesIO()
    try:
        Image.new("RGB", (30, 20)).save(content, "JPEG2000")
    except OSError:
        pytest.skip("this Pillow has no JPEG 2000")
    before, after = content.getvalue().split(b"jp2h")
    (tmp_path / "a.jp2").write_bytes(before[:-4] + struct.pack(">I4sQ", 1, b"jp2h", 2**62) + after)
    for ask in (picture_size, read_picture):
        with pytest.raises(InputError, match=r"a\.jp2"):
            ask(tmp_path / "a.jp2")
