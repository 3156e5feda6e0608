"""Log-mel frames of a stream of samples are the clip's."""

import pytest
import torch
from torch import nn

import sentio
from sentio.audio.frontend import LogMel
from sentio.audio.torch_frontend import TorchLogMel
from sentio.core.errors import ConfigError

torch.set_num_threads(1)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("lengths", [(64, 64, 20), (64, 50, 16), (65, 40, 100)])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_frames_overlap_across_steps(on_stream, center, lengths, shape):
    n_fft, win, hop = lengths
    settings = LogMel(
        rate=8000, n_fft=n_fft, win_length=win, hop_length=hop, n_mels=6, center=center, mean=-40.0, std=9.0
    )
    net = nn.Sequential(TorchLogMel(settings, dtype=torch.float64))
    samples = torch.randn(*shape, 900, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stream = sentio.stream(net, axis=len(shape), hop=2 * hop, example=samples)
    got, want = on_stream(stream, samples), net(samples)
    count = got.shape[-2]
    assert count > want.shape[-2] - 6
    assert torch.allclose(got, want[..., :count, :], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"pre_emphasis": 0.97},
        {"pre_emphasis": 0.97, "center": False},
        {"frames_of": "window", "center": False},
        {"pre_emphasis": 0.97, "frames_of": "window", "center": False},
    ],
)
def test_emphasis_and_frames_of_a_window(on_stream, settings):
    log_mel = LogMel(rate=8000, n_fft=64, win_length=40, hop_length=16, n_mels=6, **settings)
    net = nn.Sequential(TorchLogMel(log_mel, dtype=torch.float64))
    samples = torch.randn(2, 900, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stream = sentio.stream(net, axis=1, hop=32, example=samples)
    got, want = on_stream(stream, samples), net(samples)
    count = min(got.shape[-2], want.shape[-2] - 3)
    assert count > 45
    assert torch.allclose(got[..., :count, :], want[..., :count, :], rtol=0, atol=1e-9)
    clip = stream.clip(samples)
    assert torch.allclose(clip[..., :count, :], want[..., :count, :], rtol=0, atol=1e-9)


def test_a_network_with_its_front_end_takes_samples(on_stream):
    settings = LogMel(rate=8000, n_fft=64, hop_length=32, n_mels=8, center=False)
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    ]
    net = nn.Sequential(TorchLogMel(settings), *layers).double().eval()
    samples = torch.randn(1, 1, 32 * 20, dtype=torch.float64)
    stream = sentio.stream(net, example=samples, window=32 * 9 + 32)
    assert stream.hop == 32
    got = on_stream(stream, samples)
    maps = net[:3](samples)
    want = torch.stack([net[3:](maps[:, :, t : t + 9]) for t in range(got.shape[1])], 1)
    assert got.shape[1] == 20 - 1 - 1 - 8  # an FFT is two hops, the convolution looks one frame ahead
    assert torch.allclose(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (LogMel(rate=8000, n_fft=64, hop_length=32, n_mels=8, pad_mode="reflect"), "mirrors samples"),
        (LogMel(rate=8000, n_fft=64, hop_length=32, n_mels=8, ref="max"), "loudest moment"),
        (LogMel(rate=8000, n_fft=64, hop_length=32, n_mels=8, top_db=80.0), "loudest moment"),
    ],
)
def test_what_needs_the_clip_is_refused(settings, reason):
    with pytest.raises(ConfigError, match=r"Layer '0' \(TorchLogMel\)") as caught:
        sentio.stream(nn.Sequential(TorchLogMel(settings)), axis=1, example=torch.zeros(1, 400))
    assert reason in str(caught.value)


def test_time_has_to_be_last():
    settings = LogMel(rate=8000, n_fft=64, hop_length=32, n_mels=8, center=False)
    with pytest.raises(ConfigError, match="time has to be the last axis"):
        sentio.stream(nn.Sequential(TorchLogMel(settings)), axis=1, example=torch.zeros(1, 400, 2))
