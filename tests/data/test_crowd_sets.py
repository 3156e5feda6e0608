"""Crowds as data sets: rendered folders and their tables, ShanghaiTech and DISCO, targets of a front end."""

from dataclasses import replace

import numpy as np
import pytest

from sentio.audio import io
from sentio.core import registry
from sentio.core.errors import ArtifactError, ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.task import TargetMaker
from sentio.data.crowd_tables import read_crowd_tables
from sentio.data.features import features, with_targets
from sentio.data.readers import open_data
from sentio.data.simulate.crowd import CONDITIONS, crowd_picture
from sentio.data.simulate.crowd_files import render_crowds
from sentio.data.splits import splits
from sentio.tasks.counting import Counting
from sentio.vision.density import Placement
from sentio.vision.density_picture import write_png

pytest.importorskip("PIL")
SENSES = {
    "picture": {"height": 32, "width": 48},
    "sound": {"window": 0.5, "rate": 8000, "n_fft": 256, "hop_length": 160, "n_mels": 16},
}
SMALL = {"train": 5, "validation": 2, "test": 3, "size": (32, 48), "people": (0, 12), "rate": 8000}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Ten small scenes; not to be written to."""
    return render_crowds(tmp_path_factory.mktemp("crowds") / "square", condition="mixed", **SMALL)


@pytest.fixture
def own(tmp_path):
    """Two scenes to spoil."""
    return render_crowds(tmp_path / "own", **{**SMALL, "train": 1, "validation": 1, "test": 0})


def _line(file, number, text):
    """The file with another line ``number``, counted from 1."""
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    file.write_text("\n".join(lines) + "\n")


def test_what_is_rendered_is_read_again(rendered):
    data = open_data(rendered)
    assert (data.truth, data.labels, data.protocol) == ("heads", ("crowd",), "official")
    assert [item.details["part"] for item in data.items] == ["train"] * 5 + ["validation"] * 2 + ["test"] * 3
    assert [item.details["condition"] for item in data.items[:5]] == [*CONDITIONS, "clear"]
    first = data.items[0]
    scene = crowd_picture((0, 0, 0), size=(32, 48), people=(0, 12), rate=8000, condition="clear")
    assert np.array_equal(first.truth.pixels(), scene.pixels)
    assert np.allclose(first.truth.points(), scene.points, atol=0.006)
    assert io.read(first.beside["audio"]).rate == 8000
    (split,) = splits(data)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [5, 2, 3]
    (other,) = splits(data, "random", 3)
    assert sorted([*other.train, *other.validation, *other.test]) == list(range(10))


def test_a_rendering_is_kept_and_another_is_refused(rendered):
    before = (rendered / "crowds.csv").stat().st_mtime_ns
    told = []
    given = {"condition": "mixed", **SMALL}
    render_crowds(rendered, **given, progress=lambda *step: told.append(step))
    assert (rendered / "crowds.csv").stat().st_mtime_ns == before
    assert told == [(10, 10)]
    with pytest.raises(ArtifactError, match="holds another rendering"):
        render_crowds(rendered, **given, seed=5)


def test_processes_do_not_matter(rendered, tmp_path):
    again = render_crowds(tmp_path / "again", condition="mixed", **SMALL, workers=2)
    for file in rendered.rglob("*.*"):
        assert file.read_bytes() == (again / file.relative_to(rendered)).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "at least 1 scene to train on"),
        ({"condition": "foggy"}, "is one of clear, dark, blurred, noisy, mixed, got 'foggy'"),
        ({"rate": 100}, "must be from 8000 to 48000"),
        ({"people": (9, 3)}, "the fewest first"),
    ],
)
def test_settings_that_are_not_possible_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        render_crowds(tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("table", "line", "text", "message"),
    [
        (
            "crowds.csv",
            2,
            "pictures/train_0000.png,exam,,0,clear",
            "line 2 has part 'exam'; it is train, val or",
        ),
        (
            "crowds.csv",
            2,
            "pictures/none.png,train,,0,clear",
            "line 2 names 'pictures/none.png', which is not in",
        ),
        ("crowds.csv", 2, "../a.png,train,,0,clear", "line 2 names '../a.png', which is not in"),
        (
            "crowds.csv",
            2,
            "pictures/val_0000.png,train,,{heads},clear",
            r"line 3 names 'pictures/val_0000\.png' for a second time; delete one of the lines",
        ),
        (
            "crowds.csv",
            2,
            "./pictures//val_0000.png,train,,{heads},clear",
            r"line 3 names 'pictures/val_0000\.png' for a second time; delete one of the lines",
        ),
        (
            "crowds.csv",
            2,
            "pictures/train_0000.png,train,,99,clear",
            "says 99 people of .*, and heads.csv has",
        ),
        ("crowds.csv", 1, "filename,part,sound,crowd,condition", "has no column 'people'; it needs filename"),
        ("heads.csv", 1, "filename,x,z", "has no column 'y'; it needs filename, x, y"),
        ("heads.csv", 2, "pictures/train_0000.png,a,3", "line 2 has a head at 'a', '3'; x and y are numbers"),
        (
            "heads.csv",
            2,
            "pictures/other.png,1,3",
            "of 'pictures/train_0000.png', and heads.csv has|does not name",
        ),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_sentence(own, table, line, text, message):
    heads = len(open_data(own).items[1].truth.points())
    _line(own / table, line, text.format(heads=heads))
    with pytest.raises(InputError, match=message) as error:
        open_data(own)
    assert ". " not in str(error.value).replace("…", "")


def test_a_picture_is_the_same_one_however_its_path_is_written(own):
    before = open_data(own).items
    crowds, heads = own / "crowds.csv", own / "heads.csv"
    crowds.write_text(crowds.read_text().replace("pictures/train_0000.png", "./pictures/train_0000.png"))
    heads.write_text(heads.read_text().replace("pictures/val_0000.png", "pictures\\val_0000.png"))
    after = open_data(own).items
    assert [item.name for item in after] == [item.name for item in before]
    assert [item.truth.count for item in after] == [item.truth.count for item in before]
    assert sum(item.truth.count for item in after) > 0


def test_a_table_that_names_no_sound_counts_and_a_sound_found_by_its_name_is_in_the_key(own, tmp_path):
    frontend = registry.build("frontend", "image-and-sound", **SENSES)
    crowds = own / "crowds.csv"
    crowds.write_text(crowds.read_text().replace("sounds/train_0000.wav", ""))
    data = open_data(own)
    first, second = data.items
    assert (own / "sounds" / "train_0000.wav").is_file()
    assert first.beside == {"audio": None} and second.beside["audio"].is_file()
    with pytest.raises(InputError, match=r"1 of 2 files .*train_0000\.png \(comes without a sound; name one"):
        features(data, frontend)
    assert features(data, frontend, skip_bad=True).rows.tolist() == [1]
    assert len(features(data, registry.build("frontend", "image", **SENSES["picture"]))) == 2

    # A data set that says nothing of sounds: those of the same name are found, and looked at for the cache.
    silent_about = replace(data, items=tuple(replace(item, beside={}) for item in data.items))
    found = features(silent_about, frontend, cache=tmp_path / "cache")
    sound = own / "sounds" / "train_0000.wav"
    io.write(sound, np.random.default_rng(0).normal(0, 0.1, 8001), 8000)
    other = features(silent_about, frontend, cache=tmp_path / "cache")
    assert np.array_equal(other.inputs["audio"], features(silent_about, frontend).inputs["audio"])
    assert not np.array_equal(other.inputs["audio"][0], found.inputs["audio"][0])
    assert np.array_equal(other.inputs["audio"][1], found.inputs["audio"][1])
    again = features(silent_about, frontend, cache=tmp_path / "cache")
    assert np.array_equal(again.inputs["audio"], other.inputs["audio"])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_without_heads_there_are_none_and_without_the_table_it_is_refused(own):
    pictures = [item.name for item in open_data(own).items]
    (own / "heads.csv").write_text("filename,x,y\n")
    lines = [f"{name},{part},,0" for name, part in zip(pictures, ("train", "val"), strict=True)]
    (own / "crowds.csv").write_text("\n".join(["filename,part,sound,people", *lines]))
    crowds = read_crowd_tables(own)
    assert [scene.count for scene in crowds] == [0, 0]
    assert crowds.scenes[0].sound is None
    (own / "heads.csv").unlink()
    with pytest.raises(InputError, match=r"heads\.csv is missing, so nobody knows where the heads are"):
        open_data(own)


def test_shanghaitech_and_disco_are_recognised(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    for part in ("train", "test"):
        for name in ("images", "ground-truth"):
            (tmp_path / "A" / f"{part}_data" / name).mkdir(parents=True)
        for number in (1, 2, 3):
            write_png(tmp_path / "A" / f"{part}_data/images/IMG_{number}.png", np.zeros((6, 8, 3), np.uint8))
            info = np.empty((1, 1), object)
            info[0, 0] = {"location": np.full((number, 2), 3.0)}
            scipy_io.savemat(
                tmp_path / "A" / f"{part}_data/ground-truth/GT_IMG_{number}.mat", {"image_info": info}
            )
    data = open_data(tmp_path / "A")
    (split,) = splits(data)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [2, 1, 3]
    assert [item.truth.count for item in data.items] == [1, 2, 3, 1, 2, 3]

    disco = tmp_path / "B"
    for name in ("imgs", "audio"):
        (disco / name).mkdir(parents=True)
    for part in ("train", "val", "test"):
        (disco / "density" / part).mkdir(parents=True)
        write_png(disco / "imgs" / f"{part}.png", np.zeros((12, 16, 3), np.uint8))
        io.write(disco / "audio" / f"{part}.wav", np.zeros(80), 8000)
        scipy_io.savemat(disco / "density" / part / f"{part}.mat", {"map": np.full((12, 16), 1 / 48)})
    items = open_data(disco).items
    assert [item.details["part"] for item in items] == ["train", "validation", "test"]
    assert [item.beside["audio"].name for item in items] == ["train.wav", "val.wav", "test.wav"]
    frontend = registry.build("frontend", "image", height=8, width=8, resize="pad")
    found = Counting().target(items[0], frontend)
    assert found["density"].shape == (8, 8) and found["count"] == pytest.approx(4, abs=1e-5)
    assert not found["density"][0].any()  # the band above a picture that is wider than high


# Targets


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_heads_follow_the_front_end_and_none_is_lost(rendered, resize):
    task, items = Counting(sigma=1.0, side=3), open_data(rendered).items
    assert isinstance(task, TargetMaker)
    frontend = registry.build("frontend", "image", height=40, width=40, resize=resize)
    for item in items:
        found = task.target(item, frontend)
        assert found["count"] == item.truth.count and found["density"].shape == (40, 40)
        place = frontend.placement((32, 48))
        heads = place.points(item.truth.points())
        for x, y in heads.astype(int):
            assert found["density"][y, x] > 0
        # A head lies on the same spot of the picture: its share of the way across it is kept.
        assert np.allclose((heads - place.at[::-1]) / place.size[::-1], item.truth.points() / (48, 32))


def test_heads_that_are_cut_off_do_not_count(rendered):
    item = max(open_data(rendered).items, key=lambda item: item.truth.count)
    points = item.truth.points()
    frontend = registry.build("frontend", "image", height=32, width=16)
    inside = ((points[:, 0] >= 16) & (points[:, 0] < 32)).sum()
    assert 0 < inside < len(points)
    assert Counting().target(item, frontend)["count"] == inside


def test_a_density_keeps_its_sum_and_its_place():
    generator = np.random.default_rng(0)
    density = generator.uniform(size=(12, 16))
    for place in (
        Placement((0, 0, 16, 12), (9, 11), (2, 1), (13, 13)),
        Placement((0, 0, 16, 12), (24, 32), (0, 0), (24, 32)),
    ):
        assert place.density(density, (12, 16)).sum() == pytest.approx(density.sum(), rel=1e-6)
    half = Placement((0, 0, 16, 12), (6, 8), (0, 0), (6, 8)).density(density, (12, 16))
    assert np.allclose(half, density.reshape(6, 2, 8, 2).sum((1, 3)))
    # The same picture with a map an eighth as large.
    small = Placement((4, 0, 12, 8), (8, 8), (0, 0), (8, 8)).density(density[:2, :4], (8, 16))
    assert small.sum() == pytest.approx(density[:2, 1:3].sum(), rel=1e-6)


def test_targets_that_cannot_be_made_say_why(own):
    item = open_data(own).items[0]
    with pytest.raises(ConfigError, match="'log-mel' makes no pictures with heads in them; name image or"):
        Counting().target(item, registry.build("frontend", "log-mel", window=1.0, rate=8000))
    _line(own / "heads.csv", 2, f"{item.name},480,3")
    item = open_data(own).items[0]
    frontend = registry.build("frontend", "image", height=32, width=48)
    with pytest.raises(InputError, match="heads lie outside the 32x48 picture, the first at x=480, y=3"):
        Counting().target(item, frontend)
    _line(own / "heads.csv", 2, f"{item.name},48.5,3")  # marked a little beside it
    item = open_data(own).items[0]
    assert Counting().target(item, frontend)["count"] == item.truth.count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "'sigma' of counting must be above 0"),
        ({"side": 4}, "'side' of counting is an odd number"),
    ],
)
def test_options_of_targets_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Counting(**options)


def test_what_an_exit_gives_fits_or_is_told():
    fits, inputs = Counting().fits, {"main": (3, 64, 96)}
    assert fits((1,), inputs) is None and fits((1, 64, 96), inputs) is None
    assert "as large as the picture, 64x96" in fits((1, 8, 12), inputs)
    assert "build it with classes=1" in fits((2,), inputs)


class Halves:
    """Two windows of every picture, the second one later."""

    name, input_shapes = "halves", {"main": (1, 2)}

    def settings(self):
        return {}

    def prepare(self, source, *, hop=None):
        values = np.arange(4, dtype=np.float32).reshape(2, 1, 2)
        return Prepared(values, np.array([0.0, 1.5]), np.array([2.0, 3.5]), np.zeros(2, bool))


class Spans(Counting):
    """Learns when each window is; knows nothing of the later half of one picture."""

    bad = None

    def target(self, item, frontend, span):
        if item.name == self.bad and span[0] > 1:
            raise InputError("its later half is torn")
        return {"span": np.array(span), "count": np.float32(item.truth.count)}


def test_each_window_gets_the_target_of_its_own_time(rendered, tmp_path):
    data, task = open_data(rendered), Spans()
    for _ in range(2):  # computed, then from the cache
        prepared = features(data, Halves(), cache=tmp_path)
        found = with_targets(prepared, data, task, Halves())
        assert found.targets["span"].tolist() == [[0.0, 2.0], [1.5, 3.5]] * 10
        assert found.select([3]).times.tolist() == [[0.0, 2.0], [1.5, 3.5]]
        assert found.targets["count"].tolist() == [item.truth.count for item in data.items for _ in range(2)]
    task.bad = data.items[1].name
    with pytest.raises(InputError, match=r"1 of 10 annotations of .* \(its later half is torn\)"):
        with_targets(prepared, data, task, Halves())
    found = with_targets(prepared, data, task, Halves(), skip_bad=True)
    assert found.rows.tolist() == [row for row in range(10) if row != 1 for _ in range(2)]
    assert len(found.targets["count"]) == len(found) == 18
    assert found.notes == (f"Skipped {task.bad} (its later half is torn).",)


def test_a_zip_of_crowds_is_the_same_data(rendered, zipped, tmp_path):
    data = open_data(zipped(rendered, tmp_path / "square.zip", "square/"))
    plain = open_data(rendered)
    assert (data.name, data.truth) == ("square", "heads")
    assert [item.name for item in data.items] == [item.name for item in plain.items]
    assert np.array_equal(data.items[4].truth.pixels(), plain.items[4].truth.pixels())
    assert data.items[4].beside["audio"].is_file()
