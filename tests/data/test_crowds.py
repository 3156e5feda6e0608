"""Crowds: generated scenes, MATLAB's files against scipy, and the readers of ShanghaiTech and DISCO."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from sentio.audio import io
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.data.crowds import read_disco, read_picture, read_shanghaitech
from sentio.data.features import features, with_targets
from sentio.data.mat_file import read_mat
from sentio.data.readers import open_data
from sentio.data.simulate.crowd import CONDITIONS, CrowdSettings, crowd_picture
from sentio.tasks.counting import Counting
from sentio.vision.density_picture import write_png
from sentio.vision.pictures import picture_size

# Generated scenes


def test_a_scene_is_its_seeds_alone():
    one, two = crowd_picture(3), crowd_picture(3)
    assert np.array_equal(one.pixels, two.pixels)
    assert np.array_equal(one.sound, two.sound)
    assert np.array_equal(one.points, two.points)
    assert not np.array_equal(one.pixels, crowd_picture(4).pixels)


def test_conditions_spoil_the_picture_and_nothing_else():
    scenes = {condition: crowd_picture(5, condition=condition) for condition in CONDITIONS}
    clear = scenes["clear"]
    for condition, scene in scenes.items():
        assert np.array_equal(scene.points, clear.points)
        assert np.array_equal(scene.sound, clear.sound)
        assert scene.pixels.shape == (96, 128, 3) and scene.pixels.dtype == np.uint8
        assert condition == "clear" or not np.array_equal(scene.pixels, clear.pixels)
    assert scenes["dark"].pixels.mean() < 0.35 * clear.pixels.mean()

    def detail(scene):
        return np.abs(np.diff(scene.pixels.astype(float), axis=1)).mean()

    assert detail(scenes["blurred"]) < 0.6 * detail(clear) < detail(clear) < detail(scenes["noisy"])


def test_heads_lie_in_the_picture_and_where_they_are_drawn():
    scene = crowd_picture(7, size=(192, 256), people=(30, 30))
    assert scene.count == 30
    assert ((scene.points >= 0) & (scene.points < (256, 192))).all()
    # Each nearest person's head, which nothing hides, is another colour than the empty square.
    empty = crowd_picture(7, size=(192, 256), people=(0, 0))
    assert empty.count == 0
    x, y = scene.points[-1].astype(int)
    assert scene.points[-1, 1] == scene.points[:, 1].max()
    spread = scene.pixels[y - 3 : y + 4, x - 3 : x + 4].astype(float).std(axis=(0, 1)).max()
    assert spread > 8


def test_counts_cover_their_range_and_the_babble_grows_with_them():
    scenes = [crowd_picture(seed, people=(0, 60)) for seed in range(40)]
    counts = np.array([scene.count for scene in scenes])
    assert counts.min() < 6 and counts.max() > 50
    levels = [10 * np.log10(np.mean(scene.sound**2)) for scene in scenes]
    assert np.corrcoef(np.log1p(counts), levels)[0, 1] > 0.8
    assert {scene.sound.shape for scene in scenes} == {(16000,)}
    assert max(np.abs(scene.sound).max() for scene in scenes) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": (5, 2)}, "the fewest first"),
        ({"size": (8, 64)}, "at least 16x16, got 8x64"),
        ({"condition": "foggy"}, "is one of clear, dark, blurred, noisy, got 'foggy'"),
        ({"rate": 4000}, "a rate from 8000 Hz"),
        ({"talking": 2}, "a share of talkers"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        CrowdSettings(**options)
    assert ". " not in str(error.value)


# MATLAB's files


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_wrote_them(tmp_path, compressed):
    scipy_io = pytest.importorskip("scipy.io")
    file = tmp_path / "a.mat"
    numbers = {
        "map": np.arange(6, dtype=np.float32).reshape(2, 3),
        "small": np.array([[1, 2]], np.uint8),
        "wide": np.array([[-(2**40)]], np.int64),
        "cube": np.arange(24.0).reshape(2, 3, 4),
        "none": np.zeros((0, 2)),
    }
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = np.eye(2), {"a": 1.0, "long_field_name": np.array([[3, 4]])}
    scipy_io.savemat(file, {**numbers, "cell": cell}, do_compression=compressed)
    found = read_mat(file)
    for name, value in numbers.items():
        assert np.array_equal(found[name], value.astype(float)), name
        assert found[name].shape == value.shape
    assert np.array_equal(found["cell"][0], np.eye(2))
    (structure,) = found["cell"][1]
    assert structure["a"] == 1 and structure["long_field_name"].tolist() == [[3, 4]]


def test_other_and_damaged_matlab_files_are_refused_in_one_sentence(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    file = tmp_path / "a.mat"
    scipy_io.savemat(file, {"map": np.ones((20, 20))}, do_compression=True)
    whole = file.read_bytes()
    for content, message in (
        (b"MATLAB 7.3 MAT-file" + b" " * 200, r"version 7.3 \(HDF5\)"),
        (b"hello", "is not a MATLAB file of version 5"),
        (whole[:-20], "is damaged"),
        (whole[:150] + bytes(20) + whole[170:], "is damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message) as error:
            read_mat(file)
        assert ". " not in str(error.value)
    # A matrix that ends behind an element of it: nothing at all, flags, shape, name.
    flags, shape, name = (
        struct.pack("<4I", *four) for four in ((6, 8, 6, 0), (5, 8, 1, 1), (1, 3, 7364973, 0))
    )
    for parts in (flags, flags + shape, flags + shape + name, flags[:4] + bytes(4), shape[:8] * 3):
        file.write_bytes(whole[:128] + struct.pack("<2I", 14, len(parts)) + parts)
        with pytest.raises(InputError, match=r"a\.mat is damaged: .*; get it again"):
            read_mat(file)
    with pytest.raises(InputError, match="Cannot read"):
        read_mat(tmp_path / "none.mat")


# Readers


@pytest.fixture
def shanghaitech(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    for part, count in (("train", 11), ("test", 2)):
        images, truth = (tmp_path / f"{part}_data" / name for name in ("images", "ground-truth"))
        images.mkdir(parents=True), truth.mkdir()
        for number in range(1, count + 1):
            write_png(images / f"IMG_{number}.png", np.full((6, 8, 3), number, np.uint8))
            info = np.empty((1, 1), object)
            heads = np.arange(2.0 * number).reshape(number, 2)
            info[0, 0] = {"location": heads, "number": float(number)}
            scipy_io.savemat(truth / f"GT_IMG_{number}.mat", {"image_info": info})
    return tmp_path


def test_reads_shanghaitech(shanghaitech):
    pytest.importorskip("PIL")
    crowds = read_shanghaitech(shanghaitech)
    assert len(crowds) == 13
    assert [scene.name for scene in crowds.part("train")][:3] == ["train/IMG_1", "train/IMG_2", "train/IMG_3"]
    assert [scene.count for scene in crowds.part("train")] == list(range(1, 12))
    second = crowds.part("test")[1]
    assert second.points().tolist() == [[0, 1], [2, 3]]
    assert (second.pixels() == 2).all() and second.pixels().shape == (6, 8, 3)
    assert second.sound is None


def test_pictures_are_upright_as_front_ends_see_them(shanghaitech):
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    exif = image_module.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    file = shanghaitech / "test_data" / "images" / "IMG_1.png"
    image_module.fromarray(pixels).save(file, exif=exif)
    scene = read_shanghaitech(shanghaitech).part("test")[0]
    assert np.array_equal(scene.pixels(), np.rot90(pixels, -1))
    assert scene.pixels().shape[:2] == picture_size(file) == (8, 6)


def _write_heads(file, heads):
    info = np.empty((1, 1), object)
    info[0, 0] = {"location": np.array(heads, float)}
    pytest.importorskip("scipy.io").savemat(file, {"image_info": info})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_heads_that_are_no_numbers_are_refused_and_not_left_out_of_the_count(shanghaitech, value):
    pytest.importorskip("PIL")
    _write_heads(shanghaitech / "train_data/ground-truth/GT_IMG_3.mat", [[1, 1], [2, value], [3, 3]])
    data = open_data(shanghaitech).subset([0, 1, 2])
    message = r"GT_IMG_3\.mat holds 1 heads that are NaN or infinite, the first in row 2 of location; correct"
    with pytest.raises(InputError, match=message):
        _ = data.items[2].truth.count
    frontend, task = registry.build("frontend", "image", height=6, width=8), Counting(sigma=1.0, side=3)
    prepared = features(data, frontend)
    with pytest.raises(InputError, match=rf"1 of 3 annotations of .*{message}"):
        with_targets(prepared, data, task, frontend)
    found = with_targets(prepared, data, task, frontend, skip_bad=True)
    assert found.rows.tolist() == [0, 1]
    # Those of a data set of one's own, which nobody has looked at before.
    item = replace(data.items[0], truth=replace(data.items[0].truth, points=lambda: np.array([[1, value]])))
    with pytest.raises(InputError, match="1 of its 1 heads are NaN or infinite, the first is number 1"):
        task.target(item, frontend)


def test_shanghaitech_without_annotations_is_refused(shanghaitech):
    (shanghaitech / "test_data" / "ground-truth" / "GT_IMG_2.mat").unlink()
    with pytest.raises(InputError, match=r"no annotation GT_….mat for 1 pictures: IMG_2\.png"):
        read_shanghaitech(shanghaitech)
    with pytest.raises(InputError, match="is not a part of ShanghaiTech"):
        read_shanghaitech(shanghaitech / "train_data")


def test_reads_disco(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    for name in ("imgs", "audio"):
        (tmp_path / name).mkdir()
    for number, part in enumerate(("train", "val", "test", "train"), start=1):
        write_png(tmp_path / "imgs" / f"{number:04}.png", np.zeros((6, 8, 3), np.uint8))
        io.write(tmp_path / "audio" / f"{number:04}.wav", np.zeros(480), 48000)
        (tmp_path / "density_maps" / part).mkdir(parents=True, exist_ok=True)
        density = np.full((6, 8), number / 48)
        scipy_io.savemat(tmp_path / "density_maps" / part / f"{number:04}.mat", {"map": density})
    crowds = read_disco(tmp_path)
    assert [(scene.name, scene.part) for scene in crowds] == [
        ("train/0001", "train"),
        ("train/0004", "train"),
        ("val/0002", "val"),
        ("test/0003", "test"),
    ]
    last = crowds.part("test")[0]
    assert last.count == pytest.approx(3) and last.density().shape == (6, 8)
    assert last.sound.name == "0003.wav"
    (tmp_path / "audio" / "0003.wav").unlink()
    with pytest.raises(InputError, match="has no sound of the same name"):
        read_disco(tmp_path)
    with pytest.raises(InputError, match="has no folder of pictures, called imgs or images"):
        read_disco(tmp_path / "imgs")


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.01])
def test_densities_that_are_no_numbers_of_persons_are_refused(tmp_path, value):
    pytest.importorskip("PIL")
    scipy_io = pytest.importorskip("scipy.io")
    for name in ("imgs", "audio"):
        (tmp_path / name).mkdir()
    for part in ("train", "val", "test"):
        write_png(tmp_path / "imgs" / f"{part}.png", np.zeros((6, 8, 3), np.uint8))
        io.write(tmp_path / "audio" / f"{part}.wav", np.zeros(480), 48000)
        (tmp_path / "density" / part).mkdir(parents=True)
        density = np.full((6, 8), 1 / 48)
        if part == "val":
            density[1, 4] = value
        scipy_io.savemat(tmp_path / "density" / part / f"{part}.mat", {"map": density})
    data = open_data(tmp_path)
    message = (
        "val.mat holds 1 densities that are NaN, infinite or below 0, the first in row 2, column 5 of map"
    )
    with pytest.raises(InputError, match=message):
        _ = data.items[1].truth.count
    frontend, task = registry.build("frontend", "image", height=6, width=8), Counting()
    prepared = features(data, frontend)
    with pytest.raises(InputError, match=rf"1 of 3 annotations of .*{message}"):
        with_targets(prepared, data, task, frontend)
    found = with_targets(prepared, data, task, frontend, skip_bad=True)
    assert found.rows.tolist() == [0, 2] and found.targets["count"] == pytest.approx(1)
    item = replace(data.items[0], truth=replace(data.items[0].truth, density=lambda: np.array([[1, value]])))
    with pytest.raises(InputError, match="its density holds values that are NaN, infinite or below 0"):
        task.target(item, frontend)


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="is no image that can be read"):
        read_picture(tmp_path / "a.png")
