"""Reading and writing sound: every rate and shape, and what odd input is answered with."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.audio import io
from sentio.core.errors import InputError, MissingExtraError


def tone(seconds: float, rate: int, channels: int = 1, frequency: float = 440.0) -> np.ndarray:
    """Float32 ``(channel, time)``; channel ``c`` has amplitude ``0.5 / (c + 1)``."""
    time = np.arange(round(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * frequency * time)
    return np.stack([0.5 / (c + 1) * wave for c in range(channels)]).astype(np.float32)


def save(path: Path, samples: np.ndarray, rate: int, subtype: str | None = None) -> Path:
    soundfile.write(str(path), samples.T, rate, subtype=subtype)
    return path


def cut(path: Path, share: float) -> Path:
    """The same file without its end."""
    data = path.read_bytes()
    shorter = path.with_stem("cut")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count_is_read_and_resampled(tmp_path: Path, rate: int, channels: int) -> None:
    path = save(tmp_path / "tone.wav", tone(0.4, rate, channels), rate, "FLOAT")
    whole = io.read(path)
    assert (whole.samples.shape, whole.rate, whole.notes) == ((channels, round(0.4 * rate)), rate, ())
    np.testing.assert_array_equal(whole.samples, tone(0.4, rate, channels))

    found = io.read(path, rate=16000)
    assert found.samples.dtype == np.float32 and found.samples.flags.c_contiguous
    assert found.samples.shape == (channels, 6400)
    # Away from the ends, where the filter rings, a resampled tone is the tone.
    inside = slice(1000, -1000)
    np.testing.assert_allclose(found.samples[:, inside], tone(0.4, 16000, channels)[:, inside], atol=2e-4)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-24),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
        ("a.ogg", "VORBIS", 0.03),
        ("a.mp3", None, 0.03),
    ],
)
def test_codings_come_out_at_the_same_scale(
    tmp_path: Path, name: str, subtype: str | None, tolerance: float
) -> None:
    samples = tone(0.5, 44100, 2)
    found = io.read(save(tmp_path / name, samples, 44100, subtype))
    assert found.notes == ()
    np.testing.assert_allclose(found.samples, samples, atol=tolerance)


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", tone(0.1, 8000, 6), 8000, "FLOAT")
    mixed = io.read(path, mono=True).samples
    assert mixed.shape == (1, 800)
    np.testing.assert_allclose(mixed[0], tone(0.1, 8000, 6).mean(axis=0), atol=1e-7)
    opposite = np.concatenate([tone(0.1, 8000), -tone(0.1, 8000)])
    assert np.abs(io.read(save(path, opposite, 8000, "FLOAT"), mono=True).samples).max() == 0


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_blocks_join_to_the_whole(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, tone(2.35, 44100, 2), 44100)
    whole = io.read(path, rate=16000, mono=True)
    parts = list(io.blocks(path, seconds=0.5, rate=16000, mono=True))
    assert [part.samples.shape for part in parts] == [(1, 8000)] * 4 + [(1, 5600)]
    np.testing.assert_allclose(np.concatenate([p.samples for p in parts], axis=1), whole.samples, atol=1e-6)


def test_a_last_block_is_full_where_the_length_is_a_multiple(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.zeros((1, 16000), np.float32), 8000)
    parts = list(io.blocks(path, seconds=1.0))
    assert [part.samples.shape[1] for part in parts] == [8000, 8000]
    assert parts[0].notes == () and "digital silence" in parts[1].notes[0]
    with pytest.raises(InputError, match="longer than 0 seconds"):
        next(io.blocks(path, seconds=0.0))


def test_duration_is_in_seconds(tmp_path: Path) -> None:
    path = save(tmp_path / "a.flac", tone(1.25, 11025), 11025)
    assert io.duration(path) == pytest.approx(1.25, abs=1e-4)
    assert io.read(path).seconds == pytest.approx(1.25, abs=1e-4)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.wav does not exist"):
        io.read(tmp_path / "gone.wav")
    with pytest.raises(InputError, match="is a folder; give a sound file"):
        io.read(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match=r"pipe\.wav is not a regular file"):
        io.read(tmp_path / "pipe.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a", ""])
def test_empty_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"empty{suffix}"
    path.touch()
    with pytest.raises(InputError, match="is empty: it holds 0 bytes"):
        io.read(path)


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.aiff"])
def test_headers_without_sound_are_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, np.zeros((1, 0), np.float32), 8000)
    for ask in (io.read, io.duration):
        with pytest.raises(InputError, match="holds no sound: its length is 0"):
            ask(path)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".aiff", ".au", ".snd", ".raw", ".txt", ""])
@pytest.mark.parametrize("data", [b"hello world\n" * 500, bytes(5000)], ids=["text", "zeros"])
def test_files_that_are_no_sound_are_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    """libsndfile by itself would read .au and .raw files of any bytes as telephone sound."""
    path = tmp_path / f"notes{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"notes\S* is not a sound file that can be read"):
        io.read(path)


def test_samples_that_are_not_finite_are_counted_and_placed(tmp_path: Path) -> None:
    samples = tone(20.0, 8000, 2)
    samples[0, 100_000] = np.nan
    samples[1, [100_000, 140_000]] = np.inf
    path = save(tmp_path / "a.wav", samples, 8000, "FLOAT")
    with pytest.raises(InputError, match=r"holds 3 samples that are NaN or infinite, the first at 12\.500 s"):
        io.read(path, mono=True)
    with pytest.raises(InputError, match="holds 3 samples"):
        list(io.blocks(path, seconds=1.0))
    with pytest.raises(InputError, match="holds 3 samples"):
        io.from_array(samples, 8000)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.rf64", "a.flac", "a.mp3"])
def test_files_that_are_cut_short_are_used_with_a_note(tmp_path: Path, name: str) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 32000)).astype(np.float32)
    path = save(tmp_path / name, noise, 16000)
    found = io.read(cut(path, 0.6))
    assert 0.7 < found.seconds < 1.25
    promised, got = re.search(r"it promises (\S+) s and (\S+) s were read$", found.notes[0]).groups()
    assert float(promised) == pytest.approx(2.0, abs=0.02)
    assert (len(found.notes), got) == (1, f"{found.seconds:.2f}")
    if name != "a.mp3":
        np.testing.assert_allclose(found.samples, noise[:, : found.samples.shape[1]], atol=2**-15)
    assert list(io.blocks(cut(path, 0.6), seconds=0.25))[-1].notes == found.notes


def test_an_ogg_file_without_its_last_page_is_noted(tmp_path: Path) -> None:
    """An Ogg header promises no length, so only the missing end mark tells."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 64000)).astype(np.float32)
    path = save(tmp_path / "a.ogg", noise, 16000)
    assert io.read(path).notes == ()
    found = io.read(cut(path, 0.6))
    assert 1.0 < found.seconds < 3.0
    assert found.notes == (
        f"{tmp_path / 'cut.ogg'} is damaged or cut short: the {found.seconds:.2f} s before that were read",
    )


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_header_written_before_the_length_was_known_is_no_promise(tmp_path: Path, size: int) -> None:
    path = save(tmp_path / "a.wav", tone(0.5, 8000), 8000)
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    assert (io.read(path).seconds, io.read(path).notes) == (0.5, ())


def test_a_header_cut_in_half_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", tone(0.5, 8000), 8000)
    with pytest.raises(InputError, match="is not a sound file that can be read"):
        io.read(cut(path, 30 / path.stat().st_size))
    header_only = cut(path, 44.5 / path.stat().st_size)
    with pytest.raises(InputError, match="holds no sound: its length is 0"):
        io.read(header_only)


def test_damage_inside_a_flac_file_leaves_what_comes_before(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 64000)).astype(np.float32)
    path = save(tmp_path / "a.flac", noise, 16000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    path.write_bytes(data)
    found = io.read(path)
    assert 1.0 < found.seconds < 2.1 and "it promises 4.00 s" in found.notes[0]
    np.testing.assert_allclose(found.samples, noise[:, : found.samples.shape[1]], atol=2**-15)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_clipped_sound_is_noted(tmp_path: Path, subtype: str) -> None:
    loud = np.clip(2.5 * tone(0.5, 8000), -1, 1)
    share = float(np.mean(np.abs(loud) >= 1))
    found = io.read(save(tmp_path / "a.wav", loud, 8000, subtype))
    assert share > 0.1 and len(found.notes) == 1
    noted = float(found.notes[0].split("clipped: ")[1].split(" %")[0])
    assert noted == pytest.approx(100 * share, abs=5)
    assert io.read(save(tmp_path / "b.wav", 1.9 * tone(0.5, 8000), 8000, subtype)).notes == ()


def test_digital_silence_is_noted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.zeros((2, 4000), np.float32), 8000)
    assert io.read(path, rate=16000).notes == (f"{path} is digital silence: every sample is 0",)


def test_a_constant_is_noted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.full((2, 4000), 0.5, np.float32), 8000)
    note = f"{path} is constant: every sample is 0.5, as of a microphone that hangs"
    assert io.read(path).notes == (note,)
    path = save(tmp_path / "b.wav", np.full((1, 1), 0.5, np.float32), 8000)
    assert not io.read(path).notes


def test_channels_that_cancel_each_other_are_noted(tmp_path: Path) -> None:
    one = tone(1.0, 8000)
    path = save(tmp_path / "a.wav", np.concatenate([one, -one]), 8000)
    note = "is silent as one channel: its channels cancel each other"
    assert not io.read(path).notes
    assert io.read(path, mono=True).notes == (f"{path} {note}",)
    assert [block.notes for block in io.blocks(path, seconds=0.3, mono=True)][-1] == (f"{path} {note}",)
    assert io.to_mono(io.read(path)).notes == (f"The sound {note}",)
    save(path, np.concatenate([one, -0.9 * one]), 8000)
    assert not io.read(path, mono=True).notes


def test_samples_far_beyond_full_scale_are_noted_or_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", 20000 * tone(0.5, 8000), 8000, "FLOAT")
    notes = io.read(path).notes
    assert "reaches 1e+04 times full scale" in notes[-1]
    with pytest.raises(InputError, match=r"reaches 5e\+29; sound has its full scale at 1"):
        io.from_array(1e30 * tone(0.5, 8000), 8000)


def test_a_header_with_an_impossible_rate_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", tone(0.5, 8000), 8000)
    data = bytearray(path.read_bytes())
    for rate, message in (
        (0, "not a sound file"),
        (2, "a.wav is at 2 Hz, and resampling to 16000 Hz is refused"),
    ):
        data[24:28] = struct.pack("<I", rate)
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            io.read(path, rate=16000)


@pytest.mark.parametrize("rate", [0, -8000, 8000.5, float("nan"), float("inf"), "8000", None, True])
def test_rates_must_be_whole_and_positive(tmp_path: Path, rate: object) -> None:
    path = save(tmp_path / "a.wav", tone(0.1, 8000), 8000)
    with pytest.raises(InputError, match="whole number of samples per second above 0"):
        io.from_array(np.zeros(10, np.float32), rate)  # type: ignore[arg-type]
    if rate is not None:
        with pytest.raises(InputError, match="whole number of samples per second above 0"):
            io.read(path, rate=rate)  # type: ignore[arg-type]


def test_a_sound_shorter_than_one_new_sample_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", tone(0.1, 96000)[:, :1] + 0.5, 96000)
    with pytest.raises(InputError, match="too short: at 96000 Hz it has less than one sample at 8000 Hz"):
        io.read(path, rate=8000)
    with pytest.raises(InputError, match="too short"):
        list(io.blocks(path, seconds=1.0, rate=8000))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([-128, 0, 64], np.int8), [-1, 0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),
        (np.array([-32768, 0, 16384], np.int16), [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-0.25, 0, 0.5], np.float64), [-0.25, 0, 0.5]),
        (np.array([-0.25, 0, 0.5], np.float16), [-0.25, 0, 0.5]),
        ([-0.25, 0.0, 0.5], [-0.25, 0, 0.5]),
    ],
)
def test_arrays_are_scaled_by_their_type(values: object, expected: list[float]) -> None:
    found = io.from_array(values, 8000.0)  # type: ignore[arg-type]
    assert found.samples.dtype == np.float32 and found.samples.shape == (1, 3) and found.rate == 8000
    np.testing.assert_array_equal(found.samples[0], np.float32(expected))


def test_tensors_are_taken_as_arrays() -> None:
    torch = pytest.importorskip("torch")
    given = torch.full((2, 5), 0.5, requires_grad=True)
    np.testing.assert_array_equal(io.from_array(given, 8000).samples, np.full((2, 5), 0.5, np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2, 2), np.float32), r"has shape \(2, 2, 2\); sound is"),
        (np.float32(1.0), r"has shape \(\); sound is"),
        (np.zeros(0, np.float32), "holds no samples"),
        (np.zeros((0, 5), np.float32), "holds no samples"),
        (np.zeros((8000, 2), np.float32), r"would be 8000 channels; transpose it to \(channel, time\)"),
        (np.zeros(5, np.int64), "is of type int64"),
        (np.zeros(5, np.complex64), "is of type complex64"),
        (np.zeros(5, bool), "is of type bool"),
        (np.array(["a", "b"]), "is of type <U1"),
        (np.full(5, np.nan, np.float32), r"holds 5 samples that are NaN or infinite, the first at 0\.000 s"),
        (np.full(5, 1e300), "holds 5 samples that are NaN or infinite"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(values: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        io.from_array(values, 8000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    samples = tone(1.0, 22050, 2)
    io.write(tmp_path / name, samples, 22050)
    found = io.read(tmp_path / name)
    assert found.rate == 22050
    np.testing.assert_allclose(found.samples, samples, atol=0.03 if name == "a.ogg" else 2**-15)


def test_writing_takes_the_coding_it_is_told(tmp_path: Path) -> None:
    samples = 1.5 * np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    io.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(io.read(tmp_path / "a.wav").samples[0], samples)
    io.write(tmp_path / "b.wav", samples, 8000)
    np.testing.assert_allclose(io.read(tmp_path / "b.wav").samples[0], np.clip(samples, -1, 1), atol=2**-15)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gone/a.wav", {}, "its folder does not exist"),
        ("a.xyz", {}, r"Cannot write .*a\.xyz"),
        ("a", {}, "Cannot write"),
        ("a.wav", {"subtype": "VORBIS"}, "Cannot write"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        io.write(tmp_path / name, tone(0.1, 8000), 8000, **options)


def encode(path: Path, codec: str, seconds: float = 2.0) -> Path:
    """A stereo tone in a container that libsndfile does not know."""
    av = pytest.importorskip("av")
    samples = tone(seconds, 48000, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo")
        for start in range(0, samples.shape[1], 960):
            part = np.ascontiguousarray(samples[:, start : start + 960])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.mkv", "flac")])
def test_containers_are_read_through_pyav(tmp_path: Path, name: str, codec: str) -> None:
    path = encode(tmp_path / name, codec)
    found = io.read(path)
    assert found.rate == 48000 and found.notes == ()
    assert found.seconds == pytest.approx(2.0, abs=0.05)
    assert io.duration(path) == pytest.approx(2.0, abs=0.05)
    inside = slice(5000, 90000)
    error = found.samples[:, inside] - tone(2.0, 48000, 2)[:, inside]
    assert np.sqrt(np.mean(error**2)) < 0.02


def test_a_container_cut_short_is_used_with_a_note(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", "flac")
    found = io.read(cut(path, 0.5))
    assert 0.5 < found.seconds < 1.5
    assert found.notes[0].endswith(f"it promises 2.00 s and {found.seconds:.2f} s were read")


def test_containers_that_cannot_be_decoded_are_refused(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.m4a", "aac")
    with pytest.raises(InputError, match="is not a sound file that can be read"):
        io.read(cut(whole, 0.5))
    noise = tmp_path / "noise.aac"
    noise.write_bytes(np.random.default_rng(0).bytes(50_000))
    with pytest.raises(InputError, match="is damaged: nothing in it can be decoded"):
        io.read(noise)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="has no sound track"):
        io.read(path)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"something")
    with pytest.raises(MissingExtraError, match=r"reading \.m4a files needs.*sentio\[video\]"):
        io.read(path)
    with pytest.raises(InputError, match="is not a sound file"):
        io.read(path.rename(tmp_path / "a.wav"))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_whose_name_is_no_text(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
    try:
        path.touch()
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    io.write(path, np.full(100, 0.5, np.float32), 8000)
    assert io.read(path).samples.shape == (1, 100)
    path.write_bytes(b"no sound")
    with pytest.raises(InputError, match="is not a sound file"):
        io.read(path)
