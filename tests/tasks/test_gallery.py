"""The gallery: who is nearest, what it keeps, what its file may not be."""

import zipfile

import numpy as np
import pytest

from sentio.core.errors import ArtifactError, ConfigError, InputError
from sentio.tasks.gallery import Gallery
from sentio.tasks.metrics.identification import leave_one_out_accuracy


@pytest.fixture
def gallery():
    found = Gallery(2, normalise=False)
    found.enrol("Ada", np.array([[0.0, 0.0], [0.0, 4.0]]))
    found.enrol("Bo", np.array([3.0, 0.0]))
    return found


def test_the_nearest_of_a_name_counts_and_the_second_is_another(gallery):
    found = gallery.nearest(np.array([[0.0, 0.0], [0.0, 3.5], [3.0, 1.0]]))
    assert [gallery.names[place] for place in found.place] == ["Ada", "Ada", "Bo"]
    assert found.distance.tolist() == [0, 0.5, 1]
    assert found.second == pytest.approx([3, np.hypot(3, 3.5), np.hypot(3, 1)])
    assert found.ratio == pytest.approx([0, 0.5 / np.hypot(3, 3.5), 1 / np.hypot(3, 1)])


def test_one_name_alone_and_equal_ones_leave_all_doubt(gallery):
    gallery.remove("Bo")
    found = gallery.nearest(np.array([[1.0, 0.0]]))
    assert np.isinf(found.second[0]) and found.ratio[0] == 1
    gallery.enrol("Twin", np.zeros(2))
    assert gallery.nearest(np.zeros((1, 2))).ratio[0] == 1


def test_an_embedding_is_at_no_distance_from_itself():
    vectors = np.random.default_rng(0).normal(50, 1, (300, 16)).astype(np.float32)
    gallery = Gallery(16)
    for name, vector in enumerate(vectors):
        gallery.enrol(str(name), vector)
    found = gallery.nearest(vectors)
    assert found.place.tolist() == list(range(300)) and not found.distance.any()
    scaled = gallery.nearest(3 * vectors)
    assert np.abs(scaled.distance).max() < 1e-6, "lengths do not count"


def test_removing_keeps_the_others(gallery):
    gallery.remove("Ada")
    assert gallery.names == ("Bo",) and len(gallery) == 1
    assert gallery.nearest(np.zeros((1, 2))).distance.tolist() == [3]
    with pytest.raises(InputError, match="does not know 'Ada'"):
        gallery.remove("Ada")


def test_comes_back_from_its_file(gallery, tmp_path):
    path = gallery.save(tmp_path / "people.gallery")
    again = Gallery.load(path)
    assert (again.names, again.dimension, again.normalise, len(again)) == (("Ada", "Bo"), 2, False, 3)
    probes = np.random.default_rng(0).normal(size=(5, 2))
    assert np.array_equal(again.nearest(probes).distance, gallery.nearest(probes).distance)
    empty = Gallery.load(Gallery(7).save(tmp_path / "empty.npz"))
    assert (len(empty), empty.dimension, empty.normalise) == (0, 7, True)


def arrays(**changed):
    found = {
        "version": np.int64(1),
        "normalise": np.bool_(True),
        "names": np.array(["Ada", "Bo"]),
        "owners": np.array([0, 1]),
        "vectors": np.ones((2, 3), np.float32),
    }
    return {key: value for key, value in {**found, **changed}.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"version": np.int64(2)}, "newer than this library"),
        ({"names": None}, "is no gallery, or a damaged one"),
        ({"names": np.array([{"a": 1}, "Bo"], dtype=object)}, "is no gallery, or a damaged one"),
        ({"names": np.array(["Ada", "Ada"])}, "its parts do not fit"),
        ({"names": np.array(["Ada", "\x1b[2J"])}, "is refused: A name in a gallery is printable text"),
        ({"owners": np.array([0, 2])}, "its parts do not fit"),
        ({"owners": np.array([0.0, 1.0])}, "is no gallery"),
        ({"vectors": np.ones(2, np.float32)}, "is no gallery"),
        ({"vectors": np.full((2, 3), np.nan, np.float32)}, "its parts do not fit"),
    ],
)
def test_other_files_are_refused_in_one_sentence(changed, message, tmp_path):
    path = tmp_path / "people.npz"
    np.savez(path, **arrays(**changed))
    if message is None:
        assert Gallery.load(path).names == ("Ada", "Bo")
        return
    with pytest.raises(ArtifactError, match=message) as error:
        Gallery.load(path)
    assert ". " not in str(error.value)


def test_files_that_are_none_are_refused(gallery, tmp_path):
    with pytest.raises(ArtifactError, match="there is no such file"):
        Gallery.load(tmp_path / "none.npz")
    with pytest.raises(ArtifactError, match="is no gallery, or a damaged one"):
        Gallery.load(tmp_path)
    path = gallery.save(tmp_path / "people.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="is no gallery, or a damaged one"):
        Gallery.load(path)
    np.savez_compressed(path, **arrays())
    assert zipfile.is_zipfile(path)
    with pytest.raises(ArtifactError, match="it is compressed"):
        Gallery.load(path)
    with pytest.raises(ArtifactError, match="could not be written"):
        gallery.save(tmp_path / "missing" / "people.npz")


@pytest.mark.parametrize(
    ("name", "embeddings", "message"),
    [
        ("", [1.0, 2.0], "A name in a gallery is printable text, got ''"),
        ("a\nb", [1.0, 2.0], "printable text"),
        (3, [1.0, 2.0], "printable text"),
        ("Cy", [1.0, 2.0, 3.0], r"takes embeddings \(sample, 2\), got float64 \(1, 3\)"),
        ("Cy", [1.0, np.inf], "NaN or infinite"),
        ("Cy", [1.0, 1e39], "NaN or infinite values, or such as float32 has no room for"),
        ("Cy", np.zeros((0, 2)), "There is no embedding of 'Cy' to enrol"),
        ("Cy", [["a", "b"]], "takes embeddings"),
    ],
)
def test_what_cannot_be_enrolled_is_said(gallery, name, embeddings, message):
    with pytest.raises(InputError, match=message):
        gallery.enrol(name, np.array(embeddings))
    assert gallery.names == ("Ada", "Bo") and len(gallery) == 3


def test_an_empty_gallery_cannot_be_asked():
    with pytest.raises(InputError, match="The gallery is empty; enrol somebody first"):
        Gallery(2).nearest(np.zeros((1, 2)))
    with pytest.raises(ConfigError, match="dimension from 1 up, got 0"):
        Gallery(0)


def test_nobody_is_nearest_to_no_probe(gallery):
    found = gallery.nearest(np.zeros((0, 2)))
    assert [each.shape for each in (found.place, found.distance, found.second, found.ratio)] == [(0,)] * 4


def test_leave_one_out_by_hand():
    embeddings = np.array([[0.0], [1.0], [1.4], [5.0], [5.2], [9.0]])
    who = np.array(["a", "a", "b", "b", "b", "c"])
    # 0 -> 1 right, 1 -> 1.4 wrong, 1.4 -> 1 wrong, 5 and 5.2 right; c is alone and not asked
    assert leave_one_out_accuracy(embeddings, who, normalise=False) == 3 / 5
    with pytest.raises(InputError, match="No identity occurs twice"):
        leave_one_out_accuracy(embeddings[:2], np.array([0, 1]))
    with pytest.raises(InputError, match="an identity for each"):
        leave_one_out_accuracy(embeddings, who[:2])


def test_identification_refuses_nan():
    embeddings = np.eye(4)
    embeddings[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        leave_one_out_accuracy(embeddings, np.array([0, 0, 1, 1]))
