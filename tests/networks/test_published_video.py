"""X3D and Slow against the counts of their papers, and of CoX3D and CoSlow on streams.

Figures of the sheet are those of X3D (Feichtenhofer 2020) and of Continual 3D Convolutional Neural Networks
(Hedegaard and Iosifidis 2021), which counts with the tool ptflops.
"""

from functools import cache

import pytest
import torch
from torch import nn

import sentio
from sentio.core.counting import count
from sentio.core.errors import ConfigError
from sentio.core.staged import create_network

torch.set_num_threads(1)

#: parameters, MACs of convolutions and linear layers, and in the papers' convention, of a clip
CLIPS = {
    "x3d-xs": (3_794_322, 605_256_512, 635_560_544),
    "x3d-s": (3_794_322, 1_962_892_112, 2_061_365_744),
    "x3d-m": (3_794_322, 4_732_468_736, 4_970_008_352),
    "x3d-l": (6_153_432, 18_367_710_176, 19_166_052_038),
}
#: MACs of a frame, in the convention, and as the published implementation computes it
FRAMES = {
    "x3d-s": (152_711_312, 160_286_960, 205_932_560),
    "x3d-m": (297_525_776, 312_363_776, 401_829_152),
    "x3d-l": (1_149_881_456, 1_199_751_350, 1_540_474_070),
}
#: what a convolution in time costs a frame, all of them
TEMPORAL = {"x3d-s": 22_054_800, "x3d-m": 43_227_408, "x3d-l": 167_441_040}
#: delay of an answer, receptive field, and numbers that a stream keeps
STREAMS = {
    "x3d-s": (40, 69, 3_667_584),
    "x3d-m": (43, 72, 7_184_784),
    "x3d-l": (72, 130, 21_502_776),
}


@cache
def published(name, classes=400):
    """The network at its full size, weights without values."""
    with torch.device("meta"):
        return create_network(name, classes=classes).eval()


@cache
def streamed(name, window=None):
    return sentio.stream(published(name), squeeze="frame", window=window)


@cache
def frame_work(name, rule="macs", window=None):
    return streamed(name, window).macs(rule=rule).total


def last_map(net):
    """Elements of a frame before the last pooling, whose part over height and width the papers leave out."""
    channels, _, height, width = net.boundary_shapes()[net.stage_names[-2]]["main"]
    return channels * height * width


@pytest.mark.parametrize("name", CLIPS)
def test_counts_of_a_clip(name):
    net = published(name)
    assert sum(p.numel() for p in net.parameters()) == CLIPS[name][0]
    assert count(net, net.example()).total == CLIPS[name][1]
    assert count(net, net.example(), rule="ptflops").total == CLIPS[name][2]


@pytest.mark.parametrize(
    ("classes", "parameters", "operations"),
    [(400, 32_454_096, 54_860_480_912), (157, 31_956_189, 54_859_983_005)],
)
def test_counts_of_slow(classes, parameters, operations):
    net = published("slow", classes)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert count(net, net.example(), rule="ptflops").total == operations


def test_counts_of_a_frame_of_slow():
    """With a window of one frame; the papers do not count the mean over that one."""
    stream = sentio.stream(published("slow", 157), window=1)
    assert stream.macs(rule="ptflops").total - 2048 == 6_857_779_357
    assert sentio.stream(published("slow")).receptive_field == 26
    assert sentio.stream(published("slow"), window=64).receptive_field == 82


@pytest.mark.parametrize("name", FRAMES)
def test_counts_of_a_frame(name):
    net = published(name)
    macs, lean, as_published = FRAMES[name]
    assert frame_work(name) == macs
    assert frame_work(name, "ptflops") - last_map(net) == lean
    # The published implementation runs a convolution of k frames k times for each frame.
    clip = count(net, net.example()).by_module
    frames = net.input_shapes["main"][1]
    kernels = {n: m.kernel_size[0] for n, m in net.named_modules() if isinstance(m, nn.Conv3d)}
    temporal = {n: clip[n] // frames for n, kernel in kernels.items() if kernel > 1}
    assert sum(temporal.values()) == TEMPORAL[name]
    assert lean + sum((kernels[n] - 1) * work for n, work in temporal.items()) == as_published


@pytest.mark.parametrize("name", FRAMES)
def test_a_longer_window_costs_a_mean_of_more_frames(name):
    more = 64 - published(name).input_shapes["main"][1]
    if name == "x3d-s":  # the others' heads are the same
        assert frame_work(name, "ptflops", 64) - frame_work(name, "ptflops") == 432 * more
    as_published = FRAMES[name][2] + 432 * more
    assert as_published == {"x3d-s": 205_954_592, "x3d-m": 401_849_888, "x3d-l": 1_540_494_806}[name]


@pytest.mark.parametrize("name", STREAMS)
def test_delays_receptive_fields_and_state(name):
    stream = streamed(name)
    kept = sum(value.numel() for key, value in stream.start().items() if key != "steps")
    assert (stream.delay, stream.receptive_field, kept) == STREAMS[name]
    assert (stream.hop, stream.warm_up) == (1, stream.delay)
    features = sentio.stream(published(name).before("features"), squeeze="frame")
    assert features.delay == {"x3d-s": 28, "x3d-m": 28, "x3d-l": 57}[name]


def test_squeeze_over_the_last_frames_keeps_their_means():
    """15 means of each channel in CoX3D-M and no delay.

    The paper adds 85,050 numbers, 15 of 5,670 channels; squeeze and excitation in every second block, which
    the count of parameters asks for, has 3,456.
    """
    by_frame = streamed("x3d-m")
    by_window = sentio.stream(published("x3d-m"), squeeze="window")
    more = [
        sum(value.numel() for key, value in stream.start().items() if key != "steps")
        for stream in (by_window, by_frame)
    ]
    channels = 54 * 2 + 108 * 3 + 216 * 6 + 432 * 4
    assert more[0] - more[1] == 15 * channels == 15 * 3_456
    assert by_window.delay == by_frame.delay


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError, match="'blocks' of X3D is four numbers"):
        create_network("x3d-s", blocks=[1, 2])
    with pytest.raises(ConfigError, match="'width' of network 'x3d-s' is a whole number from 1 up, got 0"):
        create_network("x3d-s", width=0)
    with pytest.raises(ConfigError, match="averages over a 'clip' or a 'frame'"):
        create_network("x3d-s", squeeze="video")
    with pytest.raises(ConfigError, match="'frames' of network 'slow'"):
        create_network("slow", frames=0)
