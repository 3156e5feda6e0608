"""The log-mels of published networks: their shapes, and the figures of their sheets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sentio.audio.frontend import LogMel, mel_filters
from sentio.audio.presets import PRESETS
from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, UnknownNameError

SHAPES = {
    "bc-resnet": (101, 40),
    "cp-mobile": (64, 256),
    "dcase2024-baseline": (65, 256),
    "passt": (100, 128),
    "phinet": (126, 40),
    "phinet-per-frame": (126, 40),
    "sed-detection": (256, 40),
    "sed-detection-44k": (256, 40),
    "sed-tagging": (50, 64),
    "sed-tagging-44k": (50, 64),
    "sp4asc": (431, 256),
    "vggish": (96, 64),
}


def build(preset: str, **changes: object) -> LogMel:
    return registry.build("frontend", "log-mel", preset=preset, **changes).features


def noise(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(samples)


def test_every_preset_is_listed_here_and_in_order() -> None:
    assert list(PRESETS) == sorted(PRESETS) == sorted(SHAPES)


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_are_the_sheets_and_settings_say_everything(name: str) -> None:
    frontend = registry.build("frontend", "log-mel", preset=name)
    assert frontend.input_shapes == {"main": (1, *SHAPES[name])}
    stored = frontend.settings()
    assert "preset" not in stored
    assert registry.build("frontend", "log-mel", **stored) == frontend


@pytest.mark.parametrize("name", ["bc-resnet", "cp-mobile", "dcase2024-baseline", "sp4asc", "vggish"])
def test_a_preset_fits_its_network(name: str) -> None:
    pytest.importorskip("torch")
    shape = registry.build("frontend", "log-mel", preset=name).input_shapes["main"]
    assert registry.find("network", name).input_shapes["main"] == shape


@pytest.mark.parametrize("name", ["phinet", "phinet-icassp", "cnn10"])
def test_presets_of_several_networks_fit_them(name: str) -> None:
    pytest.importorskip("torch")
    preset = "sed-tagging" if name == "cnn10" else "phinet"
    shape = registry.build("frontend", "log-mel", preset=preset).input_shapes["main"]
    assert registry.find("network", name).input_shapes["main"] == shape


def test_what_is_given_beside_a_preset_changes_it() -> None:
    assert build("sp4asc", n_mels=64).n_mels == 64
    assert build("cp-mobile", hop_length=320).hop_length == 320  # the default of log-mel, given on purpose
    assert build("sp4asc", center=False).frames(441_000) == 429
    assert build("phinet", center=False).frames(64_000) == 122
    with pytest.raises(ConfigError, match="has no option 'colour'; it takes: preset, window"):
        registry.build("frontend", "log-mel", preset="phinet", colour="red")
    with pytest.raises(UnknownNameError, match="Unknown preset 'phinett'; did you mean 'phinet'"):
        registry.build("frontend", "log-mel", preset="phinett")


# asc_transformers


def test_passt_frames_of_a_second_with_and_without() -> None:
    assert build("passt").frames(32_000) == 100
    assert build("passt").frames(320_000) == 1000
    assert build("passt", pre_emphasis=None).frames(32_000) == 101
    assert build("passt", pre_emphasis=None, center=False, frames_of="window").frames(32_000) == 98


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_passt_silence(dtype: type) -> None:
    found = build("passt")(np.zeros(32_000, dtype))
    assert np.ptp(found) == 0
    assert float(found[0, 0]) == pytest.approx(-1.402585, abs=1e-6)
    assert (math.log(1e-5) + 4.5) / 5 == pytest.approx(-1.402585, abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*mel")
def test_passt_filters_are_kaldis() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    expected = audio_utils.mel_filter_bank(
        num_frequency_bins=513,
        num_mel_filters=128,
        min_frequency=0.0,
        max_frequency=15_500.0,
        sampling_rate=32_000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    np.testing.assert_allclose(mel_filters(build("passt")).T, expected, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*mel bands are empty")
def test_passt_from_first_principles() -> None:
    librosa = pytest.importorskip("librosa")
    settings, samples = build("passt"), noise(32_000)
    emphasised = samples[1:] - 0.97 * samples[:-1]
    window = np.hanning(800)  # symmetric
    spectrum = librosa.stft(
        emphasised, n_fft=1024, hop_length=320, win_length=800, window=window, center=True, pad_mode="reflect"
    )
    mel = np.abs(spectrum.T) ** 2 @ mel_filters(settings).T
    np.testing.assert_allclose(settings(samples), (np.log(mel + 1e-5) + 4.5) / 5, rtol=0, atol=1e-9)


def test_frames_of_a_window_are_those_of_a_shorter_fft() -> None:
    """A window of 200 in an FFT of 256 that begins where the window does, against an FFT of 200."""
    wide = LogMel(
        rate=8000, n_fft=256, win_length=200, hop_length=80, center=False, frames_of="window", n_mels=4
    )
    samples = noise(1000)
    assert wide.frames(1000) == 11 and wide.frames(200) == 1 and wide.frames(199) == 0
    frames = np.stack([samples[start : start + 200] for start in range(0, 801, 80)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    power = np.abs(np.fft.rfft(frames * window, 256)) ** 2
    expected = 10 * np.log10(power @ mel_filters(wide).T)
    np.testing.assert_allclose(wide(samples), expected, rtol=0, atol=1e-9)


# phinets


def test_phinet_maps_80_decibels_to_minus_one_to_one() -> None:
    found = build("phinet")(noise(64_000) * 10 ** (-5 * np.linspace(0, 1, 64_000)))
    assert found.max() == 1.0
    assert found.min() == -1.0
    plain = build("phinet", mean=None, std=None)(noise(64_000))
    np.testing.assert_allclose(build("phinet")(noise(64_000)), plain / 40 + 1, atol=1e-9)


def test_phinet_per_frame_scales_each_frame_by_its_own_peak() -> None:
    settings = build("phinet-per-frame")
    found = settings(noise(64_000))
    assert found.max() <= 0
    np.testing.assert_allclose(found.min(axis=1), -1.0)
    assert not settings(np.zeros(64_000)).any()  # silence is at its own maximum throughout


# sed


@pytest.mark.parametrize(
    ("name", "samples", "frames"),
    [
        ("sed-tagging", 16_000, 50),
        ("sed-detection", 163_840, 256),
        ("sed-tagging-44k", 44_100, 50),
        ("sed-detection-44k", 451_584, 256),
    ],
)
def test_the_last_centred_frame_is_dropped(name: str, samples: int, frames: int) -> None:
    assert build(name).frames(samples) == frames
    clip = noise(samples)
    whole = build(name, drop_last=False)(clip)
    assert len(whole) == frames + 1
    np.testing.assert_array_equal(build(name)(clip), whole[:-1])


def test_decibels_or_natural_logarithm_over_the_same_floor() -> None:
    clip = np.concatenate([np.zeros(8000), noise(8000)])
    decibels, natural = build("sed-tagging")(clip), build("sed-tagging", log="ln-floor")(clip)
    np.testing.assert_allclose(natural, decibels * np.log(10) / 10, rtol=0, atol=1e-9)
    assert natural.min() == pytest.approx(np.log(1e-10))


# sp4asc


def test_sp4asc_has_no_empty_band_and_htk_would_have() -> None:
    filters = mel_filters(build("sp4asc"))
    assert (filters.max(axis=1) > 0).all()
    assert int(((filters > 0).sum(axis=1) == 1).sum()) == 41
    with pytest.warns(UserWarning, match="1 of the 256 mel bands are empty"):
        htk = mel_filters(build("sp4asc", mel_scale="htk"))
    assert not htk[0].any()


# The twin


@pytest.mark.filterwarnings("ignore:.*mel bands are empty")
@pytest.mark.parametrize("name", PRESETS)
def test_the_twin_agrees(name: str) -> None:
    torch = pytest.importorskip("torch")
    from sentio.audio.torch_frontend import twin

    settings = build(name)
    clip = noise(settings.rate)[None]
    found = twin(settings, dtype=torch.float64)(torch.from_numpy(clip)).numpy()
    np.testing.assert_allclose(found, settings(clip), rtol=0, atol=1e-6)
    single = twin(settings)(torch.from_numpy(clip).float()).numpy()
    np.testing.assert_allclose(single, settings(clip.astype(np.float32)), rtol=0, atol=1e-3)


def test_the_twin_agrees_on_uncentred_windows_and_the_floor() -> None:
    torch = pytest.importorskip("torch")
    from sentio.audio.torch_frontend import twin

    clip = np.concatenate([np.zeros(4000), noise(4000)])
    for settings in (
        LogMel(
            rate=8000, n_fft=256, win_length=200, hop_length=80, center=False, frames_of="window", n_mels=4
        ),
        LogMel(rate=8000, n_fft=256, hop_length=80, n_mels=4, log="ln-floor"),
        LogMel(rate=8000, n_fft=256, hop_length=80, n_mels=4, frame_peak=True, symmetric=True),
    ):
        found = twin(settings, dtype=torch.float64)(torch.from_numpy(clip)).numpy()
        np.testing.assert_allclose(found, settings(clip), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_emphasis": 0.0}, "pre_emphasis must be above 0 and at most 1, or None, got 0.0"),
        ({"triangles": "bark"}, "triangles must be 'hertz' or 'mel', got 'bark'"),
        ({"symmetric": 2}, "symmetric must be True or False"),
        ({"frames_of": "hop"}, "frames_of must be 'fft' or 'window'"),
        ({"frames_of": "window"}, "frames_of 'window' goes with center False"),
        ({"drop_last": True, "center": False}, "drop_last goes with center"),
        ({"log": "ln-floor", "amin": 0.0}, "amin must be at least 1e-30"),
        ({"log": "ln-floor", "ref": "max"}, "ref must be 'one', or with log 'db' 'max'"),
    ],
)
def test_impossible_new_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="^Log-mel settings: .*" + message):
        LogMel(**changes)  # type: ignore[arg-type]


def test_pre_emphasis_needs_one_sample_more() -> None:
    settings = LogMel(pre_emphasis=0.97)
    assert settings.frames(1) == 0 and settings.frames(2) == 1
    assert settings(np.ones(2)).shape == (1, 64)
    with pytest.raises(InputError, match="A clip of 1 samples is too short: the front end needs 2"):
        settings(np.ones(1))
