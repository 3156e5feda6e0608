"""Augmented copies of recordings: the same whoever makes them, and only of those they are meant for."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sentio.audio.augmentation_chain import WaveformChanges
from sentio.audio.frontend import LogMel
from sentio.audio.io import read
from sentio.audio.waveform import Waveform
from sentio.audio.windows import AudioFrontEnd
from sentio.core.errors import CancelledError, ConfigError, InputError
from sentio.data.copies import CopyPlan, changed, copy_features
from sentio.data.dataset import Dataset, Item

RATE = 8000
FRONT_END = AudioFrontEnd(LogMel(rate=RATE, n_fft=256, hop_length=128, n_mels=16, f_max=3000.0), window=0.1)
PLAN = CopyPlan(
    changes=WaveformChanges(pitch=2.0, stretch=(0.9, 1.1), shift=0.02, noise=(10, 30), impulse_response=0.5),
    seed=7,
)


@pytest.fixture
def dataset(tmp_path):
    """Six clips of noise, 0.25 s each, of devices a, b, a, b, ..."""
    items = []
    for number in range(6):
        path = tmp_path / "data" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(number).normal(0, 0.1, 2000)
        soundfile.write(path, samples, RATE)
        items.append(Item(path.name, path, "xy"[number % 2], details={"device": "ab"[number % 2]}))
    return Dataset("noise", tuple(items), ("x", "y"), tmp_path / "data")


def inputs(dataset, plan=PLAN, copy=0, **options):
    return copy_features(dataset, FRONT_END, plan, copy, processes=1, **options)


def test_a_copy_follows_from_seed_name_and_number(dataset):
    first = inputs(dataset)
    # Three windows of 0.1 s cover 0.25 s.
    assert first.rows.tolist() == np.repeat(range(6), 3).tolist()
    assert first.targets.tolist() == [row % 2 for row in first.rows]
    assert np.array_equal(first.inputs, inputs(dataset).inputs)
    turned = inputs(dataset.subset([4, 1])).inputs
    assert np.array_equal(turned, np.concatenate([first.inputs[12:15], first.inputs[3:6]]))
    for other in (inputs(dataset, copy=1), inputs(dataset, replace(PLAN, seed=8))):
        assert not np.allclose(other.inputs, first.inputs)


def test_several_processes_make_the_same_copies(dataset):
    told = []
    alone = inputs(dataset)
    shared = copy_features(dataset, FRONT_END, PLAN, 0, processes=2, progress=lambda *step: told.append(step))
    assert np.array_equal(alone.inputs, shared.inputs) and np.array_equal(alone.rows, shared.rows)
    assert told == [(number, 6) for number in range(1, 7)]


def test_only_the_named_devices_are_heard_through_another(dataset):
    plan = CopyPlan(changes=WaveformChanges(impulse_response=1.0), devices=("a",))
    for item in dataset.items:
        sound = read(item.source)
        same = np.array_equal(changed(item, sound, 0, plan).samples, sound.samples)
        assert same is (item.details["device"] == "b")
    with pytest.raises(ConfigError, match=r"one of the devices c in 'device' \(there: a, b\)"):
        inputs(dataset, replace(plan, devices=("c",)))
    with pytest.raises(ConfigError, match="no item says one"):
        inputs(dataset, replace(plan, device_column="phone"))


def test_the_bands_edge_moves_by_the_jitter_only(dataset):
    plan = CopyPlan(changes=WaveformChanges(), mel_jitter=500.0)
    found = inputs(dataset, plan).inputs
    plain = inputs(dataset, CopyPlan(changes=WaveformChanges())).inputs
    assert found.shape == plain.shape and not np.allclose(found, plain)
    assert np.array_equal(
        plain, np.concatenate([FRONT_END.prepare(item.source).inputs for item in dataset.items])
    )
    lowest = AudioFrontEnd(replace(FRONT_END.log_mel, f_max=2500.0), 0.1)
    assert (
        np.abs(found - plain).max()
        < np.abs(lowest.prepare(dataset.items[0].source).inputs - plain[:3]).max() * 3
    )

    class Other:
        name = "other"

        def settings(self):
            return {}

    with pytest.raises(ConfigError, match="'other' has no mel bands"):
        copy_features(dataset, Other(), plan, 0)
    with pytest.raises(ConfigError, match="'waveform' has no mel bands"):
        copy_features(dataset, AudioFrontEnd(Waveform(rate=RATE), 0.1), plan, 0)


def test_the_cache_notices_what_makes_another_copy(dataset, tmp_path):
    folder, responses = tmp_path / "cache", tmp_path / "responses"
    responses.mkdir()
    soundfile.write(responses / "one.wav", np.eye(1, 8)[0], RATE)
    plan = replace(PLAN, changes=replace(PLAN.changes, responses=str(responses)))

    def stored(plan, copy=0):
        inputs(dataset, plan, copy, cache=folder)
        return len(list(folder.iterdir()))

    assert [stored(PLAN), stored(PLAN), stored(PLAN, 1), stored(replace(PLAN, seed=1)), stored(plan)] == [
        1,
        1,
        2,
        3,
        4,
    ]
    os.utime(responses / "one.wav", ns=(1, 1))
    assert stored(plan) == 5
    told = []
    inputs(dataset, plan, cache=folder, progress=lambda *step: told.append(step))
    assert told == [(6, 6)]
    device = replace(dataset.items[0], details={"device": "b"})
    other = replace(dataset, items=(device, *dataset.items[1:]))
    inputs(other, plan, cache=folder)
    assert len(list(folder.iterdir())) == 6


def test_it_stops_when_asked_and_names_what_cannot_be_read(dataset):
    calls = []

    def cancel():
        calls.append(1)
        return len(calls) > 3

    with pytest.raises(CancelledError, match="cancelled after 3 of 6 files"):
        inputs(dataset, cancel=cancel)
    with pytest.raises(InputError, match="cannot be read from nowhere"):
        inputs(dataset, replace(PLAN, changes=replace(PLAN.changes, responses="nowhere")))
    dataset.items[2].source.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"2\.wav is not a sound file"):
        inputs(dataset)
