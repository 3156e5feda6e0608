"""Listening: the same answers as `predict`, in constant memory, by a deadline."""

from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import soundfile

import sentio
from sentio.audio.frontend import LogMel
from sentio.audio.io import Sound, blocks
from sentio.audio.windows import AudioFrontEnd
from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.model import Model
from sentio.core.policy import Confidence, Ensemble, Fixed
from sentio.core.torch_row import TorchRow
from sentio.data.simulate.labels import Event
from sentio.serve import listening
from sentio.serve.listening import hear, listen
from sentio.tasks.classification import Classification
from sentio.tasks.counting import Counting

RATE = 8000
LABELS = ("background", "high", "low")


@pytest.fixture(scope="module")
def model():
    import torch

    torch.manual_seed(0)
    frontend = AudioFrontEnd(LogMel(rate=RATE, n_fft=256, win_length=256, hop_length=80, n_mels=16), 1.0)
    (_, frames, bands) = frontend.input_shapes["main"]
    net = sentio.create_network("tiny-cnn", classes=3, in_channels=1)
    net = sentio.add_exits(
        net, "pooled-linear", at=["block1"], classes=3, example=torch.zeros(2, 1, frames, bands)
    )
    return Model(TorchRow(net.eval()), Classification(LABELS), frontend=frontend)


@pytest.fixture
def clip(tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, int(5.3 * RATE))
    samples[2 * RATE : 3 * RATE] = 0
    soundfile.write(tmp_path / "clip.wav", samples, RATE)
    return tmp_path / "clip.wav"


@pytest.mark.parametrize("hop", [None, 0.3, 0.5, 1.7])
def test_answers_are_those_of_predict(model, clip, hop):
    wanted = model.predict(clip, hop=hop).windows
    found = list(listen(model, clip, hop=hop))
    assert len(found) > 3
    assert [(w.start, w.end, w.label, w.exit) for w in found] == [
        (w.start, w.end, w.label, w.exit) for w in wanted
    ]
    assert [w.score for w in found] == pytest.approx([w.score for w in wanted], abs=1e-6)
    assert all(w.in_time for w in found)


@pytest.mark.parametrize("seconds", [0.01, 0.37, 9.0])
def test_blocks_of_any_length_give_the_same(model, clip, seconds):
    found = listen(model, blocks(clip, seconds=seconds, rate=RATE, mono=True), hop=0.5)
    assert [(w.start, w.label) for w in found] == [(w.start, w.label) for w in listen(model, clip, hop=0.5)]


def test_a_short_sound_is_padded_as_in_predict(model, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(1).normal(0, 0.1, RATE // 4), RATE)
    (window,) = listen(model, tmp_path / "short.wav")
    wanted = model.predict(tmp_path / "short.wav")
    assert (window.start, window.end, window.label) == (0, 0.25, wanted.label)
    assert window.score == pytest.approx(wanted.score, abs=1e-6)


def test_an_endless_stream_is_answered_as_it_comes_in_constant_memory(model):
    given = 0

    def microphone():
        nonlocal given
        generator = np.random.default_rng(0)
        while True:
            given += 1
            yield Sound(generator.normal(0, 0.1, (1, RATE // 10)).astype(np.float32), RATE)

    found = list(islice(listen(model, microphone()), 30))
    assert found[-1].end == 30
    assert given == 300, "a window is answered when its last block is there"


def test_a_deadline_is_kept_by_leaving_early(model, clip, monkeypatch):
    """The measured time to the last exit is made to exceed the deadline; the first exit's is not."""
    measured = listening._measured

    def slow_tail(model, frontend):
        costs = measured(model, frontend)
        return replace(costs, ms=(costs.ms[0], 60_000.0))

    monkeypatch.setattr(listening, "_measured", slow_tail)
    assert {w.exit for w in listen(model, clip, policy=Fixed(FINAL))} == {FINAL, "none"}
    found = list(listen(model, clip, deadline_ms=5_000, policy=Fixed(FINAL)))
    assert {w.exit for w in found} == {"block1", "none"}
    assert all(w.in_time for w in found)


def test_an_exit_that_does_not_exist_is_refused_behind_a_deadline_too(model, clip):
    for deadline_ms in (None, 60_000):
        with pytest.raises(UnknownNameError, match="Unknown exit 'block7'"):
            listen(model, clip, policy=Fixed("block7"), deadline_ms=deadline_ms)


def test_exits_are_measured_before_the_stream_begins(model, clip, monkeypatch):
    """So what that takes is no part of `Listening.elapsed`, and a microphone does not wait for it."""
    measured, seen = listening._measured, []
    monkeypatch.setattr(listening, "_measured", lambda *given: seen.append(1) or measured(*given))
    listen(model, clip, deadline_ms=60_000)
    assert seen


def test_with_time_to_spare_the_policy_decides(model, clip):
    for policy in (Fixed(FINAL), Confidence(0.0), Ensemble({})):
        free = list(listen(model, clip, policy=policy))
        bound = list(listen(model, clip, policy=policy, deadline_ms=60_000))
        assert [w.exit for w in free] == [w.exit for w in bound]
        assert [w.score for w in free] == [w.score for w in bound]


def test_a_missed_deadline_is_said_and_answered_by_the_first_exit(model, clip):
    found = [w for w in listen(model, clip, deadline_ms=1e-6, policy=Fixed(FINAL)) if w.exit != "none"]
    assert {w.exit for w in found} == {"block1"}
    assert not any(w.in_time for w in found)


def test_the_measured_costs_rise_from_exit_to_exit(model):
    costs = listening._measured(model, model.frontend)
    assert costs.names == ("block1", FINAL)
    assert 0 < costs.ms[0] < costs.ms[1]


def test_runs_are_joined_and_compared_with_the_truth(model, tmp_path, monkeypatch):
    answers = ["background", "high", "high", "low", "background", "high"]
    heard = [
        listening.Heard(i, i + 1, label, 0.5 + i / 20, "final" if i % 2 else "block1", float(i), True)
        for i, label in enumerate(answers)
    ]
    monkeypatch.setattr(listening, "listen", lambda *args, **kwargs: iter(heard))
    soundfile.write(tmp_path / "street.wav", np.random.default_rng(0).normal(0, 0.1, 6 * RATE), RATE)
    truth = [
        Event("street.wav", 1.2, 2.9, "high"),
        Event("audio/street.wav", 3.1, 3.9, "high"),
        Event("street.wav", 4.2, 4.3, "low"),
        Event("other.wav", 0.0, 6.0, "low"),
    ]
    found = hear(model, tmp_path / "street.wav", truth=truth)
    assert [(s.label, s.start, s.end, s.windows) for s in found.segments] == [
        ("background", 0, 1, 1),
        ("high", 1, 3, 2),
        ("low", 3, 4, 1),
        ("background", 4, 5, 1),
        ("high", 5, 6, 1),
    ]
    assert found.segments[1].exits == {"final": 1, "block1": 1}
    assert (found.segments[1].score, found.segments[1].milliseconds) == (0.6, 2.0)
    assert len(found.truth) == 3
    # Right: background, high, high; wrong: low over high, background over low, high over nothing.
    assert found.right == pytest.approx(3 / 6)
    assert (found.found, found.false_alarms) == (1, 2)
    assert found.seconds == 6
    assert found.real_time_factor == pytest.approx(found.elapsed / 6)
    plain = found.to_dict()
    assert "spectrogram" not in plain
    assert plain["segments"][1]["label"] == "high"
    assert found.spectrogram.ndim == 2 and len(found.spectrogram) <= 600


def test_segments_of_overlapping_windows_meet_half_way(model, clip):
    found = hear(model, clip, hop=0.5)
    assert found.truth is None and found.right is None
    edges = [(s.start, s.end) for s in found.segments]
    assert edges[0][0] == 0 and edges[-1][1] == found.seconds == pytest.approx(5.3)
    assert all(before[1] == after[0] for before, after in pairwise(edges))


def test_a_model_that_counts_is_refused(model):
    counter = Model(model.row, Counting(), frontend=model.frontend, name="people")
    with pytest.raises(ConfigError, match="'people' counts, and listening tells events apart"):
        listen(counter, "street.wav")


def test_what_cannot_be_listened_to(model, clip, tmp_path):
    with pytest.raises(ConfigError, match="no front end for sound"):
        listen(Model(model.row, model.task), clip)
    for option in ({"hop": 0.0}, {"hop": float("nan")}, {"deadline_ms": -1.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(option))} must be a number above 0"):
            listen(model, clip, **option)
    with pytest.raises(InputError, match="mono blocks at 8000 Hz, got 2 channels at 44100 Hz"):
        next(listen(model, [Sound(np.zeros((2, 100), np.float32), 44100)]))
    with pytest.raises(InputError, match="ended before"):
        next(listen(model, []))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"broken\.wav"):
        list(listen(model, tmp_path / "broken.wav"))
