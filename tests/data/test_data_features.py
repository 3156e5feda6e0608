from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.core.errors import CancelledError, InputError
from sentio.core.features import Prepared
from sentio.data import feature_cache
from sentio.data.features import features
from sentio.data.readers import open_data


class Blocks:
    """A front end: the level of each 40 samples, as features of shape (1, 1, 2)."""

    name = "blocks"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.calls = 0

    @property
    def input_shapes(self):
        return {"main": (1, 1, 2)}

    def settings(self):
        return {"scale": self.scale}

    def prepare(self, source, *, hop=None):
        self.calls += 1
        try:
            samples, _ = soundfile.read(source, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise InputError(f"{source} is no sound file.") from error
        levels = samples[: len(samples) // 40 * 40].reshape(-1, 40).mean(axis=1) * self.scale
        count = len(levels)
        return Prepared(
            np.broadcast_to(levels[:, None, None, None], (count, 1, 1, 2)).astype(np.float64),
            np.arange(count) * 0.005,
            np.arange(1, count + 1) * 0.005,
            levels == 0,
            ("it is silent",) if count and not levels.any() else (),
        )


@pytest.fixture
def dataset(classes, clip):
    clip(classes / "cat" / "1.wav", level=0.0, samples=40)
    clip(classes / "dog" / "2.wav", level=0.5, samples=120)
    return open_data(classes)


def test_windows_know_their_item(dataset):
    found = features(dataset, Blocks())
    assert found.rows.tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert found.targets.tolist() == [0] * 7 + [1] * 7 and found.targets.dtype == np.int64
    assert found.inputs.shape == (14, 1, 1, 2) and found.inputs.dtype == np.float32
    assert np.allclose(found.inputs[-3:], 0.5, atol=1e-3)
    assert np.flatnonzero(found.silent).tolist() == [2]
    assert found.item_notes == {1: ("it is silent",)} and found.notes == () and len(found) == 14


def test_the_windows_of_some_items(dataset):
    part = features(dataset, Blocks()).select(np.array([6, 1]))
    assert part.rows.tolist() == [1, 6, 6, 6] and part.targets.tolist() == [0, 1, 1, 1]
    assert len(part.inputs) == len(part.silent) == 4 and part.item_notes == {1: ("it is silent",)}
    assert features(dataset, Blocks()).select([6]).item_notes == {}


def test_progress_and_cancelling(dataset, tmp_path):
    seen = []
    features(dataset, Blocks(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 7) for n in range(1, 8)]
    frontend = Blocks()
    with pytest.raises(CancelledError, match="cancelled after 3 of 7 files"):
        features(dataset, frontend, cache=tmp_path / "cache", cancel=lambda: frontend.calls == 3)
    assert not (tmp_path / "cache").exists()


def same(a, b):
    assert np.array_equal(a.inputs, b.inputs) and np.array_equal(a.rows, b.rows)
    assert np.array_equal(a.targets, b.targets) and np.array_equal(a.silent, b.silent)
    assert a.item_notes == b.item_notes
    assert {x.dtype for x in (a.inputs, b.inputs)} == {np.dtype(np.float32)}


def test_a_second_run_comes_from_the_cache(dataset, tmp_path):
    first = features(dataset, Blocks(), cache=tmp_path / "deep" / "cache")
    again, seen = Blocks(), []
    second = features(dataset, again, cache=tmp_path / "deep" / "cache", progress=lambda *p: seen.append(p))
    same(first, second)
    assert again.calls == 0 and seen == [(7, 7)] and second.notes == ()
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 1


def test_the_cache_notices_changes(dataset, tmp_path, clip):
    features(dataset, Blocks(), cache=tmp_path / "cache")
    scaled = features(dataset, Blocks(2.0), cache=tmp_path / "cache")
    assert np.allclose(scaled.inputs[0], 0.2, atol=1e-3)
    part = features(dataset.subset([6]), Blocks(), cache=tmp_path / "cache")
    assert part.rows.tolist() == [0, 0, 0]
    path = clip(dataset.items[0].source, level=0.9)
    os.utime(path, (1, 1))
    assert np.allclose(features(dataset, Blocks(), cache=tmp_path / "cache").inputs[0], 0.9, atol=1e-3)


def test_relabelled_data_shares_a_cache_but_not_its_targets(tmp_path, clip):
    for name in ("a.wav", "b.wav"):
        clip(tmp_path / "set" / name)
    table = tmp_path / "set" / "meta.csv"
    targets = []
    for text in ("a.wav,x\nb.wav,y\n", "a.wav,y\nb.wav,x\n"):
        table.write_text("filename,label\n" + text)
        targets.append(features(open_data(tmp_path / "set"), Blocks(), cache=tmp_path / "c").targets.tolist())
    assert targets == [[0, 0, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "pickle"])
def test_a_damaged_cache_is_made_again(dataset, tmp_path, damage):
    first = features(dataset, Blocks(), cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[data.index(first.inputs.tobytes()) + 3] ^= 0x40
    elif damage == "pickle":
        objects = {name: np.array([{}], dtype=object) for name in ("inputs", "rows", "silent", "notes")}
        with path.open("wb") as file:
            np.savez(file, **objects)
        data = bytearray(path.read_bytes())
    else:
        data = {"cut": data[: len(data) // 2], "empty": bytearray(), "text": bytearray(b"hello")}[damage]
    path.write_bytes(data)
    again = features(dataset, Blocks(), cache=tmp_path / "cache")
    same(first, again)
    assert len(again.notes) == 1 and "were computed again" in again.notes[0]
    frontend = Blocks()
    assert features(dataset, frontend, cache=tmp_path / "cache").notes == () and frontend.calls == 0


def test_a_cache_of_other_data_is_not_believed(dataset, tmp_path):
    features(dataset, Blocks(), cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    with np.load(path) as arrays:
        changed = dict(arrays) | {"rows": arrays["rows"] + 1}
    with path.open("wb") as file:
        np.savez(file, **changed)
    assert "do not fit together" in features(dataset, Blocks(), cache=tmp_path / "cache").notes[0]


def test_a_full_disk_loses_nothing(dataset, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_cache.os, "fsync", full)
    found = features(dataset, Blocks(), cache=tmp_path / "cache")
    assert len(found) == 14
    assert found.notes == (f"The features were not cached in {tmp_path / 'cache'}: No space left on device.",)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_where_a_file_lies_is_noted(dataset, tmp_path):
    (tmp_path / "cache").write_text("x")
    found = features(dataset, Blocks(), cache=tmp_path / "cache")
    assert len(found) == 14 and "were not cached" in found.notes[-1]


def spoil(dataset, count):
    for item in dataset.items[:count]:
        item.source.write_text("no sound")


def test_bad_files_are_named_all_at_once(dataset):
    spoil(dataset, 6)
    with pytest.raises(InputError) as caught:
        features(dataset, Blocks())
    text = str(caught.value)
    assert f"6 of 7 files of {dataset.root} cannot be used: cat/0.wav (is no sound file), " in text
    assert "dog/0.wav (is no sound file) and 1 more; correct or remove them, or leave them out" in text


def test_bad_files_can_be_skipped(dataset, tmp_path):
    spoil(dataset, 1)
    for _ in range(2):
        found = features(dataset, Blocks(), skip_bad=True, cache=tmp_path / "cache")
        assert 0 not in found.rows and len(found) == 12
        assert found.notes == ("Skipped cat/0.wav (is no sound file).",)
    with pytest.raises(InputError, match="1 of 7 files"):
        features(dataset, Blocks(), cache=tmp_path / "cache")
    spoil(dataset, 7)
    with pytest.raises(InputError, match=r"7 of 7 files .*; correct or remove them$"):
        features(dataset, Blocks(), skip_bad=True)


def test_missing_and_unusable_files(dataset, clip):
    dataset.items[0].source.unlink()
    clip(dataset.items[1].source, samples=10)
    clip(dataset.items[2].source, level=float("nan"))
    source = dataset.items[2].source
    soundfile.write(source, np.full(80, np.nan, dtype=np.float32), 8000, subtype="FLOAT")

    class Odd(Blocks):
        def prepare(self, source: Path, *, hop=None):
            if not source.exists():
                raise PermissionError(13, "Permission denied", str(source))
            prepared = super().prepare(source)
            if source == dataset.items[4].source:
                return Prepared(prepared.inputs[..., :1], prepared.starts, prepared.ends, prepared.silent)
            return prepared

    with pytest.raises(InputError) as caught:
        features(dataset, Odd())
    text = str(caught.value)
    assert "cat/0.wav (Permission denied)" in text
    assert "cat/1.wav (it is too short for one window)" in text
    assert "cat/2.wav (its features are not finite numbers)" in text
    assert "dog/0.wav (its features have shape (1, 1, 1), those of others (1, 1, 2))" in text


def test_an_empty_part(dataset):
    with pytest.raises(InputError, match="no items to prepare"):
        features(dataset.subset([]), Blocks())


def test_real_recordings_through_a_front_end(public_data, tmp_path):
    dataset = open_data(public_data / "fsdd").subset(range(20))
    first = features(dataset, Blocks(), cache=tmp_path)
    frontend = Blocks()
    same(first, features(dataset, frontend, cache=tmp_path))
    assert frontend.calls == 0 and set(first.rows) == set(range(20)) and not first.targets.any()
