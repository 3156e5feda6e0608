"""Densities of heads: the sheet's values, sums, adaptive kernels, refusals; and their pictures."""

import io

import numpy as np
import pytest

from sentio.core.errors import InputError
from sentio.vision.density import adaptive_sigmas, density_map, gaussian_kernel, shrink_density
from sentio.vision.density_picture import density_picture, over_photo, write_png


def test_the_kernel_has_the_published_values():
    kernel = gaussian_kernel(15, 4.0)
    assert kernel[7, 7] == pytest.approx(0.0112604783, abs=1e-10)
    assert kernel[0, 0] == pytest.approx(0.000526660, abs=1e-9)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert gaussian_kernel(15, 2.0)[7, 7] == pytest.approx(0.0398007877, abs=1e-10)


def test_the_sum_is_the_number_of_heads_inside():
    inside = [(20, 30), (20, 30), (50.7, 12.2), (7, 7)]
    density = density_map(inside, (48, 64))
    assert density.shape == (48, 64) and density.dtype == np.float32
    assert density.sum() == pytest.approx(4, abs=1e-5)
    assert np.unravel_index(density.argmax(), density.shape) == (30, 20)


def test_a_head_at_the_border_loses_what_lies_outside():
    assert density_map([(0, 20)], (48, 64)).sum() == pytest.approx(
        gaussian_kernel(15, 4.0)[:, 7:].sum(), abs=1e-6
    )
    assert density_map([(63.9, 47.9)], (48, 64)).sum() == pytest.approx(
        gaussian_kernel(15, 4.0)[:8, :8].sum(), abs=1e-6
    )


def test_no_heads_are_an_empty_map():
    assert not density_map([], (8, 8)).any()
    assert not density_map(np.zeros((0, 2)), (8, 8)).any()


def test_adaptive_kernels_follow_the_distance_to_others():
    points = np.array([[10.0, 10], [14, 10], [10, 14], [100, 100]])
    sigmas = adaptive_sigmas(points, neighbours=2, beta=0.3)
    assert sigmas[0] == pytest.approx(0.3 * 4)
    far = 0.3 * (np.hypot(90, 86) + np.hypot(86, 90)) / 2
    assert sigmas[3] == pytest.approx(far)
    assert adaptive_sigmas(points[:1], alone=4.0).tolist() == [4.0]
    dense = density_map(points[:3], (128, 128), adaptive=True)
    assert dense.sum() == pytest.approx(3, abs=1e-3)
    assert dense.max() > density_map(points[:3], (128, 128)).max()


def test_a_smaller_map_keeps_the_sum():
    density = density_map([(20, 30), (40, 10)], (48, 64))
    small = shrink_density(density, 8)
    assert small.shape == (6, 8)
    assert small.sum() == pytest.approx(2, abs=1e-5)
    assert small[3, 2] == pytest.approx(density[24:32, 16:24].sum())
    with pytest.raises(InputError, match="48x64 cannot be made 5 times smaller"):
        shrink_density(density, 5)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([(64, 3)], {}, r"1 of 1 heads lie outside the 48x64 picture, the first at x=64, y=3"),
        ([(-1, 3)], {}, "lie outside"),
        ([(np.nan, 3)], {}, "must be finite"),
        ([(1, 2, 3)], {}, r"shape \(n, 2\), got shape \(1, 3\)"),
        ([(1, 2)], {"side": 4}, "an odd kernel"),
        ([(1, 2)], {"sigma": 0}, "a sigma above 0"),
    ],
)
def test_heads_that_make_no_map_are_refused_in_one_sentence(points, options, message):
    with pytest.raises(InputError, match=message) as error:
        density_map(points, (48, 64), **options)
    assert ". " not in str(error.value)


def photo():
    return np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)


def test_dense_places_are_coloured_and_empty_ones_grey():
    density = np.zeros((16, 24))
    density[4, 5] = 2
    picture = over_photo(photo(), density)
    grey = photo().mean(2).round().astype(np.uint8)
    elsewhere = np.ones((16, 24), bool)
    elsewhere[4, 5] = False
    assert (picture[elsewhere] == grey[elsewhere][:, None]).all()
    assert picture[4, 5, 0] > 150 > picture[4, 5, 2]
    # A smaller map covers what it stands for.
    small = over_photo(photo(), shrink_density(density, 8))
    assert (small[:8, :8, 0] > small[:8, :8, 2]).all()


def test_the_panels_share_the_true_densitys_colours():
    true, half = np.zeros((16, 24)), np.zeros((16, 24))
    true[4, 5], half[4, 5] = 2, 1
    picture = density_picture(photo(), {"true": true, "V1": half}, scale=2)
    assert picture.shape == (32, 3 * 48 + 2 * 4, 3)
    assert (picture[::2, :48:2] == photo()).all()
    first, second = picture[8, 52 + 10], picture[8, 104 + 10]
    assert (first == over_photo(photo(), true)[4, 5]).all()
    assert (second != first).any()
    assert density_picture(photo(), {"empty": np.zeros((16, 24))}).shape == (16, 52, 3)


def test_the_file_is_a_png_with_the_same_pixels(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    write_png(tmp_path / "a.png", photo())
    with image_module.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == photo()).all()


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="does not lie on a photo of 16x24"):
        over_photo(photo(), np.zeros((15, 24)))
    with pytest.raises(InputError, match="needs a photo"):
        over_photo(photo()[:, :, :2], np.zeros((16, 24)))
    with pytest.raises(InputError, match="uint8, got"):
        write_png("a.png", np.zeros((4, 4, 3)))
