"""Log-mel frames of samples as they come, in numpy, are those of the clip."""

import numpy as np
import pytest

from sentio.audio.frontend import LogMel
from sentio.audio.log_mel_stream import LogMelStream
from sentio.core.errors import ConfigError, InputError

PLAIN = {"rate": 8000, "n_fft": 64, "hop_length": 20, "n_mels": 6}
SETTINGS = {
    "overlapping": {},
    "short window": {"win_length": 50, "hop_length": 16},
    "odd and far apart": {"n_fft": 65, "win_length": 40, "hop_length": 100},
    "as wide as the hop": {"win_length": 16, "hop_length": 64},
    "emphasised": {"pre_emphasis": 0.97, "hop_length": 16},
    "logarithm of magnitudes": {"log": "ln", "power": 1.0, "mean": -3.0, "std": 2.0},
    "each frame by its peak": {"log": "ln-floor", "frame_peak": True, "symmetric": True},
}


def stepped(stream, samples):
    """All valid frames of streams that begin together."""
    kept, found = stream.start(len(samples)), []
    for step, chunk in enumerate(np.split(samples, samples.shape[1] // stream.hop, axis=1)):
        frames, kept = stream.step(chunk, kept, np.full(len(samples), step))
        if step >= stream.warm_up:
            found.append(frames)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("begins", [{"center": True}, {"center": False}, {"frames_of": "window"}])
@pytest.mark.parametrize("frames", [1, 3])
def test_frames_are_the_clips(settings, begins, frames):
    begins = {"center": False, **begins}
    log_mel = LogMel(**{**PLAIN, **settings, **begins})
    stream = LogMelStream(log_mel, frames)
    samples = np.random.default_rng(0).standard_normal((2, 20 * stream.hop)).astype(np.float32)
    found, want = stepped(stream, samples), log_mel(samples)
    assert found.shape == (2, (20 - stream.warm_up) * frames, 6)
    # The clip's last frames see its end; a frame is given as soon as its samples are there.
    count = min(found.shape[1], want.shape[1] - (log_mel.n_fft // (2 * log_mel.hop_length) + 1))
    assert count >= 10
    np.testing.assert_allclose(found[:, :count], want[:, :count], rtol=0, atol=1e-6 * np.abs(want).max())


def test_streams_of_any_age_share_a_step():
    stream = LogMelStream(LogMel(**PLAIN, pre_emphasis=0.9), 2)
    samples = np.random.default_rng(1).standard_normal((1, 6 * stream.hop)).astype(np.float32)
    parts = np.split(samples, 6, axis=1)
    alone, kept = [], stream.start()
    for step, part in enumerate(parts):
        frames, kept = stream.step(part, kept, np.array([step]))
        alone.append(frames[0])
    old, young = stream.start(), stream.start()
    for step in range(3):
        _, old = stream.step(parts[step], old, np.array([step]))
    for step in range(3):
        both = np.concatenate([parts[3 + step], parts[step]])
        kept = np.concatenate([old, young])
        before = kept.copy()
        frames, after = stream.step(both, kept, np.array([3 + step, step]))
        np.testing.assert_array_equal(kept, before)
        old, young = after[:1], after[1:]
        np.testing.assert_allclose(frames[0], alone[3 + step], atol=1e-5)
        np.testing.assert_allclose(frames[1], alone[step], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pad_mode": "reflect"}, "mirrors samples that have not come yet"),
        ({"ref": "max"}, "loudest moment of the clip"),
        ({"top_db": 80.0}, "loudest moment of the clip"),
    ],
)
def test_what_needs_the_clip_is_refused(settings, reason):
    with pytest.raises(ConfigError, match=rf"front end 'log-mel' cannot run on a stream: .*{reason}"):
        LogMelStream(LogMel(**PLAIN, **settings), 1)


def test_no_memory_is_promised_to_a_strangers_settings():
    with pytest.raises(ConfigError, match=r"would keep [\d,]+ samples of each stream, more than 67,108,864"):
        LogMelStream(LogMel(**PLAIN), 10**9)


def test_other_sizes_are_refused():
    stream = LogMelStream(LogMel(**PLAIN), 2)
    with pytest.raises(InputError, match=r"takes 40 samples of each stream and the \d+ before them"):
        stream.step(np.zeros((1, 41), np.float32), stream.start(), np.zeros(1, np.int64))
