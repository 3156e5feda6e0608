"""Videos made here, read back as clips."""

from importlib import import_module

import numpy as np
import pytest

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, MissingExtraError
from sentio.vision import decoding
from sentio.vision.video import VideoFrontEnd

SMALL = {"frames": 4, "rate": 5.0, "side": 16}


def grey(count, height=24, width=32):
    """Frame n is grey of brightness 5 n."""
    return np.stack([np.full((height, width, 3), 5 * n, np.uint8) for n in range(count)])


def write(path, pixels, rate=10, codec="ffv1", pix_fmt="bgr0"):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], pix_fmt
        for each in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(prepared, frontend):
    """Of each frame of each clip, in steps of 5."""
    values = prepared.inputs * frontend.std[0] + frontend.mean[0]
    return np.round(values.mean((1, 3, 4)) * 255 / 5).astype(int).tolist()


def test_frames_come_as_they_are_shown(tmp_path):
    shown = list(decoding.frames(write(tmp_path / "a.mkv", grey(6))))
    assert [int(frame.pixels.mean() / 5 + 0.5) for frame in shown] == list(range(6))
    assert [frame.start for frame in shown] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert shown[-1].end == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(("degrees", "bright"), [(0, "left"), (90, "below"), (180, "right"), (-90, "above")])
def test_a_video_is_turned_as_its_camera_was_held(tmp_path, degrees, bright):
    """By degrees counterclockwise, which bring what is bright on the left to another side."""
    av = pytest.importorskip("av")
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :24] = 240
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (frame,) = decoding.frames(tmp_path / "a.mp4")
    height, width = frame.pixels.shape[:2]
    assert (height, width) == ((48, 32) if degrees in (90, -90) else (32, 48))
    sides = {
        "left": frame.pixels[:, : width // 3],
        "right": frame.pixels[:, -(width // 3) :],
        "above": frame.pixels[: height // 3],
        "below": frame.pixels[-(height // 3) :],
    }
    assert max(sides, key=lambda side: sides[side].mean()) == bright
    assert sides[bright].min() > 200


def test_clips_follow_each_other_and_the_last_ends_with_the_video(tmp_path):
    """Ten frames a second, five taken: every second one."""
    frontend = VideoFrontEnd(**SMALL)
    prepared = frontend.prepare(write(tmp_path / "a.mkv", grey(20)))
    assert prepared.inputs.shape == (3, 3, 4, 16, 16)
    assert prepared.inputs.dtype == np.float32
    assert brightness(prepared, frontend) == [[0, 2, 4, 6], [8, 10, 12, 14], [12, 14, 16, 18]]
    assert prepared.starts == pytest.approx([0, 0.8, 1.2])
    assert prepared.ends == pytest.approx([0.8, 1.6, 2.0])
    half = frontend.prepare(tmp_path / "a.mkv", hop=0.4)
    assert [row[0] for row in brightness(half, frontend)] == [0, 4, 8, 12]


def test_one_clip_from_the_centre():
    frontend = VideoFrontEnd(**SMALL, clips="centre")
    prepared = frontend.prepare((grey(20), 10))
    assert brightness(prepared, frontend) == [[6, 8, 10, 12]]
    assert prepared.starts == pytest.approx([0.6])


def test_more_frames_than_the_video_has_are_shown_again():
    frontend = VideoFrontEnd(**SMALL)
    assert brightness(frontend.prepare((grey(3), 2.5)), frontend)[0] == [0, 0, 1, 1]


def test_a_short_video_stays_on_its_last_frame():
    frontend = VideoFrontEnd(**SMALL)
    prepared = frontend.prepare((grey(4), 10))
    assert brightness(prepared, frontend) == [[0, 2, 2, 2]]
    assert prepared.notes == ("The video of 0.400 s stays on its last frame up to 0.8 s",)
    assert prepared.ends == pytest.approx([0.4])


@pytest.mark.parametrize("size", [(24, 32), (50, 23), (16, 16), (9, 12)])
def test_scaling_and_cutting_are_pytorchs(size):
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frontend = VideoFrontEnd(frames=1, side=16, short_side=20)
    height, width = (side * 20 // min(size) for side in size)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    scaled = torch.nn.functional.interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0]
    top, left = (height - 16) // 2, (width - 16) // 2
    want = (scaled[:, top : top + 16, left : left + 16] / 255 - 0.45) / 0.225
    np.testing.assert_allclose(frontend.picture(pixels), want.numpy(), atol=1e-4)


def test_nothing_to_see_is_silent():
    noise = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)
    frontend = VideoFrontEnd(**SMALL)
    assert frontend.prepare((np.zeros_like(noise), 5)).silent.tolist() == [True, True]
    assert frontend.prepare((noise, 5)).silent.tolist() == [False, False]


def test_settings_build_it_again():
    frontend = VideoFrontEnd(frames=16, rate=6.0, side=224, short_side=256, mean=0.5, std=(0.2, 0.3, 0.4))
    assert registry.build("frontend", "video", **frontend.settings()) == frontend
    assert frontend.input_shapes == {"main": (3, 16, 224, 224)}


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path):
    frontend = VideoFrontEnd(**SMALL)
    with pytest.raises(InputError, match="There is no video file"):
        frontend.prepare(tmp_path / "none.mp4")
    pytest.importorskip("av")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match=r"empty\.mp4 is empty"):
        frontend.prepare(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_bytes(b"not a video at all" * 50)
    with pytest.raises(InputError, match=r"text\.mp4 cannot be read as video \(.*\); copy or convert"):
        frontend.prepare(tmp_path / "text.mp4")


def test_a_video_that_ends_too_early_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    whole = write(tmp_path / "whole.mp4", noise, codec="mpeg4", pix_fmt="yuv420p").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.mp4 (cannot be read as video|is damaged)"):
        VideoFrontEnd(**SMALL).prepare(tmp_path / "cut.mp4")


def test_sound_alone_is_no_video(tmp_path):
    pytest.importorskip("av")
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    with pytest.raises(InputError, match="holds no video stream"):
        VideoFrontEnd(**SMALL).prepare(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (3, "A video is a path or"),
        ((np.zeros((4, 8, 8), np.uint8), 5), "Frames have the shape"),
        ((np.zeros((4, 8, 8, 3), np.float32), 5), "A frame is RGB, uint8"),
        ((np.zeros((4, 8, 8, 3), np.uint8), 0), "The rate of frames"),
    ],
)
def test_other_sources_are_refused(source, said):
    with pytest.raises(InputError, match=said):
        VideoFrontEnd(**SMALL).prepare(source)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frames": 0}, "frames must be a whole number"),
        ({"rate": -1.0}, "rate must be"),
        ({"short_side": 10, "side": 16}, "does not fit"),
        ({"clips": "first"}, "clips must be"),
        ({"std": 0.0}, "std must be above 0"),
        ({"mean": [0.5, 0.5]}, "one number, or three"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=f"Video settings: .*{said}"):
        registry.build("frontend", "video", **settings)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(import_module("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match="PyAV"):
        list(decoding.frames(tmp_path / "a.mp4"))
