"""CIFAR, Fashion-MNIST and folders by part, each made here in its authors' format."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from sentio.core.errors import InputError
from sentio.data.features import features
from sentio.data.inert_pickle import read_inert
from sentio.data.readers import open_data
from sentio.data.splits import splits
from sentio.vision.images import ImageFrontEnd

pytest.importorskip("PIL")
NAMES = ["airplane", "automobile", "bird"]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (36, 3, 32, 32), np.uint8)
LABELS = np.arange(36) % 3


@pytest.fixture
def ten(tmp_path):
    """The binary version: two training files of 15 images, a test file of 6."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, rows in (
        ("data_batch_1", slice(0, 15)),
        ("data_batch_2", slice(15, 30)),
        ("test_batch", slice(30, 36)),
    ):
        flat = PIXELS[rows].reshape(-1, 3072)
        records = np.column_stack([LABELS[rows].astype(np.uint8), flat])
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    (folder / "readme.html").write_text("x")
    return folder


def pickled(path, values):
    """As Python 2 has pickled it: protocol 2, text for bytes."""
    path.write_bytes(pickle.dumps(values, protocol=2))


@pytest.fixture
def ten_python(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, rows in (("data_batch_1", slice(0, 30)), ("test_batch", slice(30, 36))):
        values = {"data": PIXELS[rows].reshape(-1, 3072), "labels": LABELS[rows].tolist()}
        pickled(folder / name, values)
    pickled(folder / "batches.meta", {"label_names": NAMES, "num_vis": 3072})
    return folder


def same_pixels(dataset):
    frontend = ImageFrontEnd(height=32, width=32)
    found = features(dataset, frontend)
    assert found.inputs.dtype == np.uint8
    return np.array_equal(found.inputs, PIXELS[: len(dataset)])


def test_the_binary_version(ten):
    dataset = open_data(ten)
    assert dataset.labels == tuple(NAMES)
    assert dataset.targets.tolist() == LABELS.tolist()
    assert dataset.items[16].name == "data_batch_2/00001.ppm"
    assert same_pixels(dataset)
    (split,) = splits(dataset)
    assert split.test.tolist() == list(range(30, 36))
    assert len(split.validation) == 6
    assert dataset.notes == ()


def test_a_byte_order_mark_is_no_part_of_the_first_class(ten):
    (ten / "batches.meta.txt").write_text("\n".join(NAMES), "utf-8-sig")
    assert open_data(ten).labels == tuple(NAMES)


def test_the_python_version_gives_the_same(ten_python):
    dataset = open_data(ten_python)
    assert dataset.labels == tuple(NAMES)
    assert dataset.targets.tolist() == LABELS.tolist()
    assert same_pixels(dataset)
    assert [item.details["part"] for item in dataset.items] == ["train"] * 30 + ["test"] * 6


@pytest.mark.parametrize("version", ["ten", "ten_python"])
@pytest.mark.parametrize("prefix", ["", "inner/"])
def test_a_zip_of_either(request, zipped, tmp_path, version, prefix):
    dataset = open_data(zipped(request.getfixturevalue(version), tmp_path / "c.zip", prefix))
    assert dataset.targets.tolist() == LABELS.tolist()
    assert same_pixels(dataset)


def test_cifar_100_has_two_labels(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "coarse_label_names.txt").write_text("animal\nplant\n")
    (folder / "fine_label_names.txt").write_text("cat\ndog\nrose\n")
    for name, rows in (("train", slice(0, 30)), ("test", slice(30, 36))):
        coarse = (LABELS[rows] == 2).astype(np.uint8)
        records = np.column_stack([coarse, LABELS[rows].astype(np.uint8), PIXELS[rows].reshape(-1, 3072)])
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    dataset = open_data(folder)
    assert dataset.labels == ("cat", "dog", "rose")
    assert [item.details["coarse"] for item in dataset.items[:3]] == ["animal", "animal", "plant"]
    assert same_pixels(dataset)


def test_the_cache_stays_good_when_images_are_written_out_again(ten, tmp_path):
    frontend = ImageFrontEnd(height=8, width=8)
    features(open_data(ten), frontend, cache=tmp_path / "cache")
    first = list((tmp_path / "cache").iterdir())
    # Standardised otherwise, the pixels are the same.
    other = ImageFrontEnd(height=8, width=8, mean=0.5, std=0.5)
    features(open_data(ten), other, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == first


class Harmful:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('harmed').touch()",))


@pytest.mark.parametrize(
    "values",
    [
        {"labels": [Harmful()]},
        {"data": np.array([Harmful()], dtype=object)},
        Harmful(),
        {"data": np.zeros(3, np.float32)},
        [1, 2],
    ],
)
def test_a_pickle_that_holds_anything_else_is_refused_and_not_run(tmp_path, monkeypatch, values):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    pickled(path, values)
    with pytest.raises(InputError, match="data_batch_1"):
        read_inert(path, path)
    assert not (tmp_path / "harmed").exists()


def test_an_array_of_an_impossible_shape_is_refused(tmp_path):
    path = tmp_path / "data_batch_1"
    begin = b"(dVdata\ncnumpy.core.multiarray\n_reconstruct\n(tR"
    for shape in ((2, 3), (-1, -6), (6.0,), ("a",), (7,)):
        state = b"(I1\n" + pickle.dumps(shape, 0)[:-1] + b"cnumpy\ndtype\n(Vu1\ntRI00\nVsixsix\nt"
        path.write_bytes(begin + state + b"bs.")
        if shape == (2, 3):
            assert read_inert(path, path)["data"].tolist() == [[*b"six"], [*b"six"]]
            continue
        with pytest.raises(InputError, match="holds an array that is not of whole bytes"):
            read_inert(path, path)


def test_damaged_files_are_refused_in_one_sentence(ten, ten_python):
    (ten_python / "data_batch_1").write_bytes((ten_python / "data_batch_1").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"data_batch_1 is not read, since it is damaged"):
        open_data(ten_python)
    pickled(ten_python / "data_batch_1", {"data": PIXELS.reshape(-1, 3072), "labels": [0]})
    with pytest.raises(InputError, match=r"data_batch_1 does not hold images and labels"):
        open_data(ten_python)
    (ten / "data_batch_1.bin").write_bytes(bytes(5000))
    with pytest.raises(InputError, match=r"no whole number of records of 3073"):
        open_data(ten)
    (ten / "data_batch_1.bin").write_bytes(bytes([9] * 3073))
    with pytest.raises(InputError, match=r"fine label beyond its 3 classes"):
        open_data(ten)
    (ten / "batches.meta.txt").unlink()
    with pytest.raises(InputError, match=r"names of the classes cannot be read"):
        open_data(ten)


@pytest.fixture
def fashion(tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part, rows in (("train", slice(0, 30)), ("t10k", slice(30, 36))):
        pixels, labels = PIXELS[rows, 0, :28, :28], LABELS[rows].astype(np.uint8)
        images = struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        packed = gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
    return folder


def test_fashion_mnist(fashion, zipped, tmp_path):
    for dataset in (open_data(fashion), open_data(zipped(fashion, tmp_path / "fashion.zip"))):
        assert [item.label for item in dataset.items[:3]] == ["t-shirt", "trouser", "pullover"]
        found = features(dataset, ImageFrontEnd(height=28, width=28, colour="grey"))
        assert np.array_equal(found.inputs, PIXELS[:, :1, :28, :28])
        assert splits(dataset)[0].test.tolist() == list(range(30, 36))


def test_mnist_has_numbers_for_names(fashion, tmp_path):
    images = fashion / "train-images-idx3-ubyte.gz"
    (fashion / "train-images-idx3-ubyte").write_bytes(gzip.decompress(images.read_bytes()))
    images.unlink()
    dataset = open_data(fashion.rename(tmp_path / "digits"))
    assert dataset.labels == ("0", "1", "2")
    (tmp_path / "fashion-trials").mkdir()
    digits = (tmp_path / "digits").rename(tmp_path / "fashion-trials" / "MNIST")
    assert open_data(digits).labels == ("0", "1", "2")
    (tmp_path / "mnists" / "FashionMNIST").mkdir(parents=True)  # as torchvision lays it out
    clothes = digits.rename(tmp_path / "mnists" / "FashionMNIST" / "raw")
    assert open_data(clothes).labels == ("pullover", "t-shirt", "trouser")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no gzip", "is damaged"),
        (gzip.compress(b"short"), "is no IDX file of bytes in 3 axes"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + bytes(100)), "does not hold the 1,568"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28)), "more than is read"),
        (gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(8)), "has 2 images in"),
    ],
    ids=["no gzip", "short", "cut off", "huge", "other number"],
)
def test_damaged_idx_files_are_refused(fashion, content, said):
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(InputError, match=said):
        open_data(fashion)


def test_labels_are_needed(fashion):
    (fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="and not its labels"):
        open_data(fashion)


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "pets"
    for part, count in (("train", 10), ("test", 2)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                (folder / part / label / f"{number}.png").write_bytes(b"x")
    return folder


def test_a_folder_per_part_and_class(parts, zipped, tmp_path):
    for dataset in (open_data(parts), open_data(zipped(parts, tmp_path / "a.zip", "pets/"))):
        assert dataset.labels == ("cat", "dog")
        (split,) = splits(dataset)
        assert {dataset.items[place].details["part"] for place in split.test} == {"test"}
        assert (len(split.train), len(split.validation), len(split.test)) == (16, 4, 4)
        assert dataset.protocols == ("official", "random")


def test_a_part_that_validates_is_used(parts):
    (parts / "train" / "cat" / "0.png").rename(parts / "first.png")
    for label in ("cat", "dog"):
        (parts / "val" / label).mkdir(parents=True)
        (parts / "val" / label / "9.png").write_bytes(b"x")
    (parts / "first.png").rename(parts / "train" / "cat" / "0.png")
    dataset = open_data(parts)
    (split,) = splits(dataset)
    assert [dataset.items[place].name for place in split.validation] == ["val/cat/9.png", "val/dog/9.png"]


def test_training_files_alone_are_a_part(parts, zipped, tmp_path):
    """As CIFAR-10 without its test images is kept: 50,000 files in ``train``."""
    for file in (parts / "test").rglob("*.png"):
        file.unlink()
    dataset = open_data(zipped(parts, tmp_path / "train.zip"))
    (split,) = splits(dataset)
    assert (len(split.train), len(split.validation), len(split.test)) == (16, 4, 0)
    assert split.notes == ("The data set's own test part is absent.",)


def test_classes_that_are_called_train_and_test_are_classes(tmp_path):
    for label in ("train", "test"):
        (tmp_path / "railway" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "railway" / label / f"{number}.png").write_bytes(b"x")
    dataset = open_data(tmp_path / "railway")
    assert dataset.labels == ("test", "train")
    assert dataset.protocols == ("random",)


def test_a_class_without_training_files_is_refused(parts):
    (parts / "test" / "fox").mkdir()
    (parts / "test" / "fox" / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match="no training files of fox"):
        open_data(parts)
